//! Where the binary under test and the repository are.

use std::path::{Path, PathBuf};

/// The `flotilla` binary of the profile that this test was built with.
///
/// # Panics
/// When it was not built: `cargo test --workspace` builds it.
#[must_use]
pub fn flotilla() -> PathBuf {
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

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
