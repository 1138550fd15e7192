//! The wall clock of a host, which may jump. Processes see it through libfaketime.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library of Debian's package `libfaketime`, for programs with threads.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The clock that the processes of one host see.
pub(super) struct HostClock {
    /// Holds the difference from the machine's clock, such as `+1d`.
    file: PathBuf,
}

impl HostClock {
    /// Whether clocks can jump on this machine.
    pub(super) fn is_possible() -> bool {
        library().is_some()
    }

    /// Creates a clock that is right, as a file in `dir`.
    pub(super) fn new(dir: &Path, host: &str) -> Self {
        let clock = Self {
            file: dir.join(format!("{host}.clock")),
        };
        clock.jump("+0");
        clock
    }

    /// Sets the difference from the machine's clock. Processes see it within a second.
    pub(super) fn jump(&self, difference: &str) {
        std::fs::write(&self.file, difference).expect("the file of a clock can be written");
    }

    /// Makes the program of `command` see this clock. The clock that measures durations is left alone, as
    /// it is where an administrator sets the time.
    pub(super) fn apply(&self, command: &mut Command) {
        let Some(library) = library() else { return };
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

/// Returns where the library is, whatever the architecture.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let paths = folders.flatten().map(|folder| folder.path().join(LIBRARY));
    paths.into_iter().find(|path| path.exists())
}
