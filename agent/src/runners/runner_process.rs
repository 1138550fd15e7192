//! The process of a runner: started, watched and ended.

use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_engine::{EndCause, LoadError, ProcessEnd};
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::end_cause::{EndEvidence, end_cause};
use super::process_files::{PeakMemory, oom_kills};
use super::runner_command::{RunnerCommand, RunnerSettings};
use super::runner_log::RunnerLog;
use super::spawner;

/// How often the count of processes that the kernel ended for want of memory is read. A runner whose end
/// falls into the same interval as such an end is taken for its victim.
const OOM_INTERVAL: Duration = Duration::from_secs(2);

/// How long the rest of the log of a process that has ended is read.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a process may take to end after its connection has.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The process of a runner. Dropping it ends the process.
pub(super) struct RunnerProcess {
    pid: u32,
    memory_limit: Option<Bytes>,
    peak: Mutex<PeakMemory>,
    log: RunnerLog,
    kill: CancellationToken,
    was_silent: Arc<AtomicBool>,
    /// `None` until the process has ended and its log is read.
    ended: watch::Receiver<Option<ProcessStatus>>,
}

/// How a process ended, and whether the kernel had just ended one for want of memory.
#[derive(Debug, Clone, Copy)]
struct ProcessStatus {
    exit: ExitStatus,
    kernel_freed_memory: bool,
}

impl RunnerProcess {
    /// Starts a runner. Returns it and the agent's end of the socket that is the runner's standard input.
    pub(super) async fn start(
        command: &RunnerCommand,
        settings: &RunnerSettings,
    ) -> std::io::Result<(Self, UnixStream)> {
        let (stream, inherited) = std::os::unix::net::UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let mut command = Command::from(command.command(settings));
        command
            .stdin(OwnedFd::from(inherited))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = spawner::spawn(command).await?;
        let pid = child.id().unwrap_or_default();
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
        tokio::spawn(watch_process(child, kill.clone(), follow, sender).in_current_span());
        let process = Self {
            pid,
            memory_limit: settings.memory_limit,
            peak: Mutex::default(),
            log,
            kill,
            was_silent: Arc::default(),
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

    /// Ends the process when its connection ends and the process does not: then it did not respond.
    pub(super) fn watch_connection(&self, connection: impl Future<Output = ()> + Send + 'static) {
        let (kill, was_silent) = (self.kill.clone(), self.was_silent.clone());
        let mut ended = self.ended.clone();
        tokio::spawn(async move {
            connection.await;
            let ended = tokio::time::timeout(EXIT_TIMEOUT, ended.wait_for(Option::is_some)).await;
            if ended.is_err() && !kill.is_cancelled() {
                was_silent.store(true, Ordering::SeqCst);
                kill.cancel();
            }
        });
    }

    /// Returns why a call failed: the end of the process, if that was the reason.
    pub(super) async fn failure(&self, status: &tonic::Status) -> LoadError {
        match tokio::time::timeout(EXIT_TIMEOUT, self.ended()).await {
            Ok(end) => end.into(),
            Err(_) => LoadError::Engine(status.message().to_owned()),
        }
    }

    /// Ends the process and waits until it has, and with it has given back all that it held.
    pub(super) async fn end(&self) {
        self.kill.cancel();
        self.wait().await;
    }

    /// Waits until the process has ended by itself, and returns why.
    pub(super) async fn ended(&self) -> ProcessEnd {
        let status = self.wait().await;
        let log = self.log.lines();
        let cause = match status {
            Some(status) => end_cause(EndEvidence {
                exit_code: status.exit.code(),
                signal: status.exit.signal(),
                was_silent: self.was_silent.load(Ordering::SeqCst),
                kernel_freed_memory: status.kernel_freed_memory,
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

/// Waits until a process ends, ending it once `kill` is cancelled.
async fn watch_process(
    mut child: Child,
    kill: CancellationToken,
    log: JoinHandle<()>,
    ended: watch::Sender<Option<ProcessStatus>>,
) {
    let (mut before, mut last) = (oom_kills(), oom_kills());
    let mut interval = tokio::time::interval(OOM_INTERVAL);
    let exit = loop {
        tokio::select! {
            exit = child.wait() => break exit,
            () = kill.cancelled() => {
                // It fails only if the process has ended already.
                let _ = child.start_kill();
                break child.wait().await;
            }
            _ = interval.tick() => {
                before = last;
                last = oom_kills();
            }
        }
    };
    let exit = exit.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot wait for the process of a model");
        ExitStatus::default()
    });
    // A process that it has started may keep the log open.
    let _ = tokio::time::timeout(LOG_TIMEOUT, log).await;
    ended.send_replace(Some(ProcessStatus {
        exit,
        kernel_freed_memory: oom_kills() > before,
    }));
}
