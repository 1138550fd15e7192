//! The `flotilla` command.

use std::process::ExitCode;

/// Requests are many small allocations on several threads: with mimalloc `overhead` (in
/// `tests/`) counts clearly more of them per second than with the system allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    flotilla::main()
}
