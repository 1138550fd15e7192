//! The limit of a runner's memory, which grows with its adapters: that of the model's spec is for the model alone.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use flotilla_core::Bytes;
use parking_lot::Mutex;

use super::runner_cgroup::RunnerCgroup;

/// The limit of a runner's memory. Cheap to clone; clones are of one limit.
#[derive(Debug, Clone)]
pub(super) struct MemoryLimit(Arc<State>);

#[derive(Debug)]
struct State {
    process: u32,
    /// The limit of the model. `None`: there is none.
    model: Option<Bytes>,
    /// The runner's cgroup. `None`: the limit is `RLIMIT_DATA`.
    cgroup: Option<PathBuf>,
    /// What is added for adapters.
    adapters: Mutex<Bytes>,
}

impl MemoryLimit {
    /// The limit that a process was started with.
    pub(super) fn new(process: u32, model: Option<Bytes>, cgroup: Option<&RunnerCgroup>) -> Self {
        Self(Arc::new(State {
            process,
            model,
            cgroup: cgroup.map(|cgroup| cgroup.path().to_owned()),
            adapters: Mutex::default(),
        }))
    }

    /// The limit now.
    pub(super) fn now(&self) -> Option<Bytes> {
        self.0.model.map(|model| model + *self.0.adapters.lock())
    }

    /// Lets the process take so much more.
    pub(super) async fn raise(&self, bytes: Bytes) {
        self.change(move |adapters| adapters + bytes).await;
    }

    /// Takes back what was added.
    pub(super) async fn lower(&self, bytes: Bytes) {
        self.change(move |adapters| adapters.saturating_sub(bytes))
            .await;
    }

    async fn change(&self, change: impl FnOnce(Bytes) -> Bytes + Send + 'static) {
        let state = self.0.clone();
        let set = tokio::task::spawn_blocking(move || {
            let model = state.model?;
            let mut adapters = state.adapters.lock();
            *adapters = change(*adapters);
            state.set(model + *adapters).err()
        });
        if let Ok(Some(error)) = set.await {
            tracing::warn!(%error, "the limit of a runner's memory stays as it is");
        }
    }
}

impl State {
    fn set(&self, limit: Bytes) -> io::Result<()> {
        if let Some(cgroup) = &self.cgroup {
            return std::fs::write(cgroup.join("memory.max"), limit.0.to_string());
        }
        let process = i32::try_from(self.process).map_err(io::Error::other)?;
        let limit = libc::rlimit {
            rlim_cur: limit.0,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the limit is read only during the call, and no old one is written.
        let set =
            unsafe { libc::prlimit(process, libc::RLIMIT_DATA, &limit, std::ptr::null_mut()) };
        match set {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn limit_of_a_process_grows_and_shrinks_with_its_adapters() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let limit = MemoryLimit::new(child.id(), Some(Bytes(64 << 20)), None);
        let data_limit = || {
            let limits = std::fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
            let line = limits
                .lines()
                .find(|line| line.starts_with("Max data size"));
            line.unwrap().split_whitespace().nth(3).unwrap().to_owned()
        };
        limit.raise(Bytes(6 << 20)).await;
        assert_eq!(data_limit(), (70_u64 << 20).to_string());
        assert_eq!(limit.now(), Some(Bytes(70 << 20)));
        limit.lower(Bytes(4 << 20)).await;
        assert_eq!(data_limit(), (66_u64 << 20).to_string());
        let unlimited = MemoryLimit::new(child.id(), None, None);
        unlimited.raise(Bytes(1)).await;
        assert_eq!(data_limit(), (66_u64 << 20).to_string());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
