//! The allocator of the binary.

use mimalloc::MiMalloc;

/// Requests are many small allocations on several threads: with mimalloc the benchmark
/// `overhead` counts clearly more of them per second than with the system's allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Gives free memory back to the system now, not when it is next needed.
pub(crate) fn return_memory() {
    // SAFETY: it looks at the allocator's own free lists only.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
