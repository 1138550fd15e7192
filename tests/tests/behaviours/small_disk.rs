//! A disk that gets full.

use std::path::{Path, PathBuf};
use std::process::Command;

use flotilla_tests::Process;

/// A small file system in namespaces of its own, which an unprivileged user may create.
pub(crate) struct SmallDisk {
    holder: Process,
    dir: PathBuf,
}

impl SmallDisk {
    /// Mounts a file system of `size` MiB. Returns `None` where namespaces are not allowed.
    pub(crate) fn mount(dir: &Path, size: u32) -> Option<Self> {
        let probe = ["--user", "--map-root-user", "--mount", "true"];
        let probed = Command::new("unshare").args(probe).status();
        if !probed.is_ok_and(|status| status.success()) {
            eprintln!("skipped: this machine allows no namespaces");
            return None;
        }
        let script = format!(
            "mount -t tmpfs -o size={size}M none \"$0\" && echo mounted && exec sleep 1000"
        );
        let mut command = Command::new("unshare");
        command
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(dir);
        let mut holder = Process::spawn(command);
        holder.wait_for_line("mounted");
        Some(Self {
            holder,
            dir: dir.to_owned(),
        })
    }

    /// A command in the namespaces.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--user", "--mount", "--preserve-credentials", "--target"])
            .arg(self.holder.id().to_string())
            .arg(program);
        command
    }

    fn filler(&self) -> String {
        self.dir.join("filler").display().to_string()
    }

    /// Takes all space that is left.
    pub(crate) fn fill(&self) {
        let output = format!("of={}", self.filler());
        let mut dd = self.command("dd");
        dd.args(["if=/dev/zero", "bs=4096", &output]);
        assert!(
            !dd.output().unwrap().status.success(),
            "the disk is not full"
        );
    }

    /// Frees what [`SmallDisk::fill`] took.
    pub(crate) fn make_room(&self) {
        let removed = self.command("rm").arg(self.filler()).status().unwrap();
        assert!(removed.success());
    }
}
