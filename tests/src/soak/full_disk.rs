//! A small disk of its own, which can be filled.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in memory. It is unmounted when dropped.
pub(super) struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    /// Mounts a disk of 16 MiB at a new folder. `None` where that is not permitted.
    pub(super) fn mount(folder: &Path) -> Option<Self> {
        std::fs::create_dir_all(folder).ok()?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m", "flotilla-soak"])
            .arg(folder)
            .status()
            .ok()?;
        status.success().then(|| Self {
            mount: folder.to_owned(),
        })
    }

    /// Writes a file until nothing is free.
    pub(super) fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).expect("the disk is mounted");
        let block = vec![0; 64 << 10];
        while file.write_all(&block).is_ok() {}
    }

    /// Deletes what [`Self::fill`] wrote.
    pub(super) fn free(&self) {
        std::fs::remove_file(self.filler()).expect("the disk was filled");
    }

    fn filler(&self) -> PathBuf {
        self.mount.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the processes that use it may still be ending.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}
