//! The paths of the binary under test and of the repository.

use std::path::{Path, PathBuf};

/// Returns the path of the `flotilla` binary that was built in the same profile as this test, or the one that
/// `FLOTILLA_BINARY` names.
///
/// # Panics
/// Panics if it was not built. `cargo test --workspace` builds it.
#[must_use]
pub fn flotilla_binary() -> PathBuf {
    if let Some(named) = std::env::var_os("FLOTILLA_BINARY") {
        return named.into();
    }
    let test = std::env::current_exe().expect("a running test has a path");
    // target/PROFILE/deps/TEST or target/PROFILE/BENCH → target/PROFILE/flotilla
    let binary = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("flotilla"))
        .find(|path| path.is_file());
    binary.expect("the flotilla binary is not built: run the tests with `cargo test --workspace`")
}

/// Returns the root directory of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
