//! The process of a runner: started, watched and ended.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_engine::{EndCause, LoadError, ProcessEnd};
use flotilla_proto::transport::LinkChannel;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::end_cause::{EndEvidence, end_cause};
use super::health_check::until_silent;
use super::process_files::{PeakMemory, oom_kills};
use super::runner_cgroup::{OutOfMemory, RunnerCgroup, RunnerCgroups};
use super::runner_command::{RunnerCommand, RunnerSettings};
use super::runner_log::RunnerLog;
use super::spawner;

/// How often the count of processes that the kernel ended for want of memory is read. A runner without a cgroup
/// whose end falls into the same interval as such an end is taken for its victim.
const OOM_INTERVAL: Duration = Duration::from_secs(2);

/// How long the rest of the log of a process that has ended is read.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a process may take to end after its connection has.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a process may take to end after SIGKILL. One that waits in the kernel, for a drive or a driver that
/// hangs, takes any time: nobody waits for it any longer.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The process of a runner. Dropping it ends the process.
pub(super) struct RunnerProcess {
    pid: u32,
    memory_limit: Option<Bytes>,
    peak: Mutex<PeakMemory>,
    log: RunnerLog,
    kill: CancellationToken,
    was_silent: Arc<AtomicBool>,
    /// Cancelled at the first sign that the process ends or has ended.
    ending: CancellationToken,
    /// `None` until the process has ended and its log is read.
    ended: watch::Receiver<Option<ProcessStatus>>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy)]
struct ProcessStatus {
    /// `None` if it has not ended although it was killed.
    exit: Option<ExitStatus>,
    /// Whether the kernel has ended it, or seems to have, for want of memory.
    out_of_memory: Option<OutOfMemory>,
}

impl RunnerProcess {
    /// Starts a runner. Returns it and the agent's end of the socket that is the runner's standard input.
    pub(super) async fn start(
        command: &RunnerCommand,
        settings: &RunnerSettings,
    ) -> std::io::Result<(Self, UnixStream)> {
        let memory_limit = settings.memory_limit;
        let cgroup = create_cgroup(settings);
        let settings = RunnerSettings {
            // The cgroup has it.
            memory_limit: settings.memory_limit.filter(|_| cgroup.is_none()),
            ..settings.clone()
        };
        let (stream, inherited) = std::os::unix::net::UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let mut command = Command::from(command.command(&settings));
        command
            .stdin(OwnedFd::from(inherited))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = spawner::spawn(command).await?;
        let pid = child.id().unwrap_or_default();
        if let Some(cgroup) = &cgroup {
            // It has hardly taken memory yet: it loads its model on request.
            cgroup.add(pid)?;
        }
        let log = RunnerLog::default();
        let stderr = child.stderr.take();
        let (reader, model) = (log.clone(), settings.model.clone());
        let follow = async move {
            if let Some(stderr) = stderr {
                reader.follow(model, stderr).await;
            }
        };
        let follow = tokio::spawn(follow.in_current_span());
        let kill = CancellationToken::new();
        let (sender, ended) = watch::channel(None);
        let ending = CancellationToken::new();
        let watch = ProcessWatch {
            child,
            cgroup,
            kill: kill.clone(),
            ending: ending.clone(),
            log: follow,
            ended: sender,
        };
        tokio::spawn(watch.run(settings.model).in_current_span());
        let process = Self {
            pid,
            memory_limit,
            peak: Mutex::default(),
            log,
            kill,
            was_silent: Arc::default(),
            ending,
            ended,
        };
        Ok((process, stream))
    }

    /// The id of the process.
    pub(super) fn id(&self) -> u32 {
        self.pid
    }

    /// The peak of its memory. `None` once it has ended.
    pub(super) fn peak_memory(&self) -> Option<Bytes> {
        self.ended.borrow().is_none().then_some(())?;
        self.peak.lock().measure(self.pid)
    }

    /// Drives the `connection` to the process, and ends the process when it does not respond on `channel`, or not
    /// soon after its connection has ended.
    pub(super) fn watch_connection(
        &self,
        channel: LinkChannel,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let (kill, was_silent) = (self.kill.clone(), self.was_silent.clone());
        let (ending, mut ended) = (self.ending.clone(), self.ended.clone());
        let watch = async move {
            tokio::select! {
                () = connection => {
                    ending.cancel();
                    let exited = ended.wait_for(Option::is_some);
                    if tokio::time::timeout(EXIT_TIMEOUT, exited).await.is_ok() {
                        return;
                    }
                }
                () = until_silent(channel) => {}
            }
            if !kill.is_cancelled() {
                was_silent.store(true, Ordering::SeqCst);
                kill.cancel();
            }
        };
        tokio::spawn(watch.in_current_span());
    }

    /// Waits for the first sign that the process ends or has ended: its exit, the end of its connection, or that
    /// the agent ends it. Why is known later, once its log is read.
    pub(super) async fn ending(&self) {
        self.ending.cancelled().await;
    }

    /// Returns why a call failed: the end of the process, if that was the reason.
    pub(super) async fn failure(&self, status: &tonic::Status) -> LoadError {
        match tokio::time::timeout(EXIT_TIMEOUT, self.ended()).await {
            Ok(end) => end.into(),
            Err(_) => LoadError::Engine(status.message().to_owned()),
        }
    }

    /// Ends the process and waits until it has, and with it has given back all that it held. A process that waits
    /// in the kernel is left behind after [`KILL_TIMEOUT`].
    pub(super) async fn end(&self) {
        self.kill.cancel();
        self.wait().await;
    }

    /// Waits until the process has ended by itself, and returns why.
    pub(super) async fn ended(&self) -> ProcessEnd {
        let status = self.wait().await;
        let log = self.log.lines();
        let cause = match status {
            Some(ProcessStatus { exit: None, .. }) => EndCause::NotEnded(KILL_TIMEOUT.as_secs()),
            Some(ProcessStatus {
                exit: Some(exit),
                out_of_memory,
            }) => end_cause(EndEvidence {
                exit_code: exit.code(),
                signal: exit.signal(),
                was_silent: self.was_silent.load(Ordering::SeqCst),
                out_of_memory,
                memory_limit: self.memory_limit,
                log: &log,
            }),
            None => EndCause::ExitCode(0),
        };
        ProcessEnd { cause, log }
    }

    /// Waits for the end. `None` if the runtime stops meanwhile.
    async fn wait(&self) -> Option<ProcessStatus> {
        let mut ended = self.ended.clone();
        let status = ended.wait_for(Option::is_some).await;
        status.ok().and_then(|status| *status)
    }
}

impl Drop for RunnerProcess {
    fn drop(&mut self) {
        self.kill.cancel();
    }
}

/// Creates the cgroup of a runner. `None` where the agent may not.
fn create_cgroup(settings: &RunnerSettings) -> Option<RunnerCgroup> {
    let created = RunnerCgroups::of_this_process()?.create(settings.memory_limit);
    created
        .inspect_err(|error| {
            let model = &settings.model;
            tracing::warn!(model, %error, "the runner gets no cgroup: its memory is limited by RLIMIT_DATA");
        })
        .ok()
}

/// Waits until a process ends.
struct ProcessWatch {
    child: Child,
    cgroup: Option<RunnerCgroup>,
    /// Cancelled to end the process.
    kill: CancellationToken,
    ending: CancellationToken,
    /// The task that reads the log.
    log: JoinHandle<()>,
    ended: watch::Sender<Option<ProcessStatus>>,
}

impl ProcessWatch {
    /// Waits until the process ends, ending it once that is wanted, and reports how it ended.
    async fn run(mut self, model: String) {
        let (mut before, mut last) = (oom_kills(), oom_kills());
        let mut interval = tokio::time::interval(OOM_INTERVAL);
        let exit = loop {
            tokio::select! {
                exit = self.child.wait() => break Some(exit),
                () = self.kill.cancelled() => {
                    self.ending.cancel();
                    // It fails only if the process has ended already.
                    let _ = self.child.start_kill();
                    break tokio::time::timeout(KILL_TIMEOUT, self.child.wait()).await.ok();
                }
                _ = interval.tick() => {
                    before = last;
                    last = oom_kills();
                }
            }
        };
        self.ending.cancel();
        let Some(exit) = exit else {
            self.report(None, None);
            let pid = self.child.id().unwrap_or_default();
            tracing::error!(
                model,
                "the process {pid} has not ended {} s after SIGKILL: it waits in the kernel, and keeps its memory",
                KILL_TIMEOUT.as_secs()
            );
            let _ = self.child.wait().await;
            tracing::info!(model, "the process {pid} has ended at last");
            return;
        };
        let exit = exit.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot wait for the process of a model");
            ExitStatus::default()
        });
        // A process that it has started may keep the log open.
        let _ = tokio::time::timeout(LOG_TIMEOUT, &mut self.log).await;
        let out_of_memory = match &self.cgroup {
            Some(cgroup) => cgroup.out_of_memory(),
            None => (oom_kills() > before).then_some(OutOfMemory::Node),
        };
        self.report(Some(exit), out_of_memory);
    }

    fn report(&self, exit: Option<ExitStatus>, out_of_memory: Option<OutOfMemory>) {
        self.ended.send_replace(Some(ProcessStatus {
            exit,
            out_of_memory,
        }));
    }
}
