//! The task that waits for the end of a runner's process, and ends the process once that is wanted.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use flotilla_engine::StuckProcess;
use tokio::process::Child;
use tokio::sync::{SetOnce, watch};
use tokio::task::{self, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::process_files::oom_kills;
use super::runner_cgroup::{OutOfMemory, RunnerCgroup};

/// How often the count of processes that the kernel ended for want of memory is read. A runner without a cgroup
/// whose end falls into the same interval as such an end is taken for its victim.
const OOM_INTERVAL: Duration = Duration::from_secs(2);

/// How long the rest of the log of a process that has ended is read.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a process may take to end after SIGKILL. One that takes longer waits in the kernel, for a drive or a
/// driver that hangs, and may take any time.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// How a process ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessStatus {
    pub(super) exit: ExitStatus,
    /// Whether the kernel has ended it, or seems to have, for want of memory.
    pub(super) out_of_memory: Option<OutOfMemory>,
}

/// What is known of a process, and how it is ended. Shared by its [`ProcessWatch`] and those who use the process.
#[derive(Debug, Clone)]
pub(super) struct ProcessState {
    /// Cancelled to end the process.
    pub(super) kill: CancellationToken,
    /// Cancelled at the first sign that the process ends or has ended.
    pub(super) ending: CancellationToken,
    /// Set when the process has not ended soon after SIGKILL.
    pub(super) stuck: Arc<SetOnce<StuckProcess>>,
    /// `None` until the process has ended and its log is read.
    pub(super) ended: watch::Receiver<Option<ProcessStatus>>,
}

impl ProcessState {
    /// Creates the state of a process that runs, and what reports its end.
    pub(super) fn new() -> (Self, watch::Sender<Option<ProcessStatus>>) {
        let (sender, ended) = watch::channel(None);
        let state = Self {
            kill: CancellationToken::new(),
            ending: CancellationToken::new(),
            stuck: Arc::default(),
            ended,
        };
        (state, sender)
    }
}

/// A child process, as far as a watch needs it.
pub(super) trait ChildProcess: Send {
    /// Sends it SIGKILL.
    fn send_kill(&mut self) -> io::Result<()>;

    /// Waits until it has ended, and releases its id. Can be cancelled and called again.
    fn exited(&mut self) -> impl Future<Output = io::Result<ExitStatus>> + Send;
}

impl ChildProcess for Child {
    fn send_kill(&mut self) -> io::Result<()> {
        self.start_kill()
    }

    fn exited(&mut self) -> impl Future<Output = io::Result<ExitStatus>> + Send {
        self.wait()
    }
}

/// Waits until a process ends.
pub(super) struct ProcessWatch<C> {
    pub(super) model: String,
    pub(super) pid: u32,
    pub(super) child: C,
    pub(super) cgroup: Option<RunnerCgroup>,
    /// The task that reads the log.
    pub(super) log: JoinHandle<()>,
    /// How long the process may take to end after SIGKILL before it counts as stuck.
    pub(super) kill_timeout: Duration,
    pub(super) state: ProcessState,
    pub(super) ended: watch::Sender<Option<ProcessStatus>>,
}

impl<C: ChildProcess> ProcessWatch<C> {
    /// Waits until the process ends, ending it once that is wanted, and reports how it ended.
    pub(super) async fn run(mut self) {
        let (mut before, mut last) = (oom_kills(), oom_kills());
        let mut interval = tokio::time::interval(OOM_INTERVAL);
        let kill = self.state.kill.clone();
        let exit = loop {
            tokio::select! {
                exit = self.child.exited() => break exit,
                () = kill.cancelled() => break self.end().await,
                _ = interval.tick() => {
                    before = last;
                    last = oom_kills();
                }
            }
        };
        self.state.ending.cancel();
        let exit = exit.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot wait for the process of a model");
            ExitStatus::default()
        });
        // A process that it has started may keep the log open.
        let _ = tokio::time::timeout(LOG_TIMEOUT, &mut self.log).await;
        let out_of_memory = match self.cgroup.take() {
            // The kernel may make whoever uses the files of a cgroup wait.
            Some(cgroup) => task::spawn_blocking(move || cgroup.out_of_memory())
                .await
                .unwrap_or_default(),
            None => (oom_kills() > before).then_some(OutOfMemory::Node),
        };
        self.ended.send_replace(Some(ProcessStatus {
            exit,
            out_of_memory,
        }));
    }

    /// Ends the process and waits until it has ended, however long that takes. Reports one that does not end soon.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        self.state.ending.cancel();
        // It fails only if the process has ended already.
        let _ = self.child.send_kill();
        if let Ok(exit) = tokio::time::timeout(self.kill_timeout, self.child.exited()).await {
            return exit;
        }
        let (model, process) = (&self.model, self.pid);
        let stuck = StuckProcess { process };
        tracing::error!(model, "{stuck} ({})", stuck.remedy());
        // Nobody else sets it.
        let _ = self.state.stuck.set(stuck);
        let exit = self.child.exited().await;
        tracing::warn!(model, "the process {process} has ended at last");
        exit
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use futures::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    const PID: u32 = 7;

    /// A process that ends only when a test says so, whatever signals it gets.
    struct UnkillableChild {
        end: oneshot::Receiver<()>,
        killed: CancellationToken,
    }

    impl ChildProcess for UnkillableChild {
        fn send_kill(&mut self) -> io::Result<()> {
            self.killed.cancel();
            Ok(())
        }

        async fn exited(&mut self) -> io::Result<ExitStatus> {
            let _ = (&mut self.end).await;
            Ok(ExitStatus::from_raw(9))
        }
    }

    /// A watched process that SIGKILL does not end.
    struct UnkillableProcess {
        state: ProcessState,
        killed: CancellationToken,
        /// Sends the end of the process.
        end: oneshot::Sender<()>,
    }

    /// Watches a process that ends only when the test says so, and counts as stuck at once after SIGKILL.
    fn unkillable() -> UnkillableProcess {
        let (state, ended) = ProcessState::new();
        let (end, receiver) = oneshot::channel();
        let killed = CancellationToken::new();
        let watch = ProcessWatch {
            model: "m".into(),
            pid: PID,
            child: UnkillableChild {
                end: receiver,
                killed: killed.clone(),
            },
            cgroup: None,
            log: tokio::spawn(async {}),
            kill_timeout: Duration::ZERO,
            state: state.clone(),
            ended,
        };
        tokio::spawn(watch.run());
        UnkillableProcess { state, killed, end }
    }

    #[tokio::test]
    async fn process_that_does_not_end_is_reported_and_waited_for() {
        let UnkillableProcess {
            mut state,
            killed,
            end,
        } = unkillable();
        assert!(state.stuck.wait().now_or_never().is_none());
        state.kill.cancel();
        assert_eq!(*state.stuck.wait().await, StuckProcess { process: PID });
        assert!(killed.is_cancelled() && state.ending.is_cancelled());
        assert!(state.ended.borrow().is_none(), "it has not ended");
        end.send(()).unwrap();
        let status = *state.ended.wait_for(Option::is_some).await.unwrap();
        assert_eq!(status.unwrap().exit.signal(), Some(9));
    }
}
