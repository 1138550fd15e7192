//! The process of a runner: started, watched and ended.

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_engine::{EndCause, LoadError, ProcessEnd, StuckProcess};
use flotilla_proto::transport::LinkChannel;
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tracing::Instrument;

use super::end_cause::{EndEvidence, end_cause};
use super::health_check::until_silent;
use super::memory_limit::MemoryLimit;
use super::process_files::PeakMemory;
use super::process_watch::{KILL_TIMEOUT, ProcessState, ProcessStatus, ProcessWatch};
use super::runner_command::{RunnerCommand, RunnerSettings};
use super::runner_log::RunnerLog;
use super::runner_start::{self, StartedProcess};

/// How long a process may take to end after its connection has.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// The process of a runner. Dropping it ends the process.
pub(super) struct RunnerProcess {
    pid: u32,
    memory_limit: MemoryLimit,
    peak: Mutex<PeakMemory>,
    log: RunnerLog,
    was_silent: Arc<AtomicBool>,
    state: ProcessState,
}

impl RunnerProcess {
    /// Starts a runner. Returns it and the agent's end of the socket that is the runner's standard input.
    pub(super) async fn start(
        command: &RunnerCommand,
        settings: &RunnerSettings,
    ) -> std::io::Result<(Self, UnixStream)> {
        let StartedProcess {
            mut child,
            cgroup,
            stream,
        } = runner_start::start(command, settings).await?;
        let pid = child.id().unwrap_or_default();
        let log = RunnerLog::default();
        let stderr = child.stderr.take();
        let (reader, model) = (log.clone(), settings.model.clone());
        let follow = async move {
            if let Some(stderr) = stderr {
                reader.follow(model, stderr).await;
            }
        };
        let memory_limit = MemoryLimit::new(pid, settings.memory_limit, cgroup.as_ref());
        let (state, ended) = ProcessState::new();
        let watch = ProcessWatch {
            model: settings.model.clone(),
            pid,
            child,
            cgroup,
            log: tokio::spawn(follow.in_current_span()),
            kill_timeout: KILL_TIMEOUT,
            state: state.clone(),
            ended,
        };
        tokio::spawn(watch.run().in_current_span());
        let process = Self {
            pid,
            memory_limit,
            peak: Mutex::default(),
            log,
            was_silent: Arc::default(),
            state,
        };
        Ok((process, stream))
    }

    /// The id of the process.
    pub(super) fn id(&self) -> u32 {
        self.pid
    }

    /// The limit of its memory.
    pub(super) fn memory_limit(&self) -> &MemoryLimit {
        &self.memory_limit
    }

    /// The peak of its memory. `None` once it has ended.
    pub(super) fn peak_memory(&self) -> Option<Bytes> {
        self.state.ended.borrow().is_none().then_some(())?;
        self.peak.lock().measure(self.pid)
    }

    /// Drives the `connection` to the process, and ends the process when it does not respond on `channel`, or not
    /// soon after its connection has ended.
    pub(super) fn watch_connection(
        &self,
        channel: LinkChannel,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let was_silent = self.was_silent.clone();
        let ProcessState {
            kill,
            ending,
            mut ended,
            ..
        } = self.state.clone();
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
        self.state.ending.cancelled().await;
    }

    /// Waits until the process cannot be ended. Never returns otherwise.
    pub(super) async fn stuck(&self) -> StuckProcess {
        *self.state.stuck.wait().await
    }

    /// Returns why a call failed: the end of the process, if that was the reason. One that the agent ends since it
    /// did not respond is waited for.
    pub(super) async fn failure(&self, status: &tonic::Status) -> LoadError {
        match tokio::time::timeout(EXIT_TIMEOUT, self.ended()).await {
            Ok(end) => end.into(),
            Err(_) if self.was_silent.load(Ordering::SeqCst) => self.ended().await.into(),
            Err(_) => LoadError::Engine(status.message().to_owned()),
        }
    }

    /// Ends the process and waits until it has ended, and with it has given back all that it held. One that is
    /// [`stuck`](Self::stuck) may take any time.
    pub(super) async fn end(&self) {
        self.state.kill.cancel();
        self.wait().await;
    }

    /// Waits until the process has ended by itself, and returns why.
    pub(super) async fn ended(&self) -> ProcessEnd {
        let status = self.wait().await;
        let log = self.log.lines();
        let cause = match status {
            Some(ProcessStatus {
                exit,
                out_of_memory,
            }) => end_cause(EndEvidence {
                exit_code: exit.code(),
                signal: exit.signal(),
                was_silent: self.was_silent.load(Ordering::SeqCst),
                out_of_memory,
                memory_limit: self.memory_limit.now(),
                log: &log,
            }),
            None => EndCause::ExitCode(0),
        };
        ProcessEnd { cause, log }
    }

    /// Waits for the end. `None` if the runtime stops meanwhile.
    async fn wait(&self) -> Option<ProcessStatus> {
        let mut ended = self.state.ended.clone();
        let status = ended.wait_for(Option::is_some).await;
        status.ok().and_then(|status| *status)
    }
}

impl Drop for RunnerProcess {
    fn drop(&mut self) {
        self.state.kill.cancel();
    }
}
