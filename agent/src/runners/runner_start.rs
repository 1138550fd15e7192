//! The start of a runner's process with a limit on its memory: that of a cgroup where the agent may create one, else
//! `RLIMIT_DATA`, which the runner sets for itself.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task;

use super::runner_cgroup::{RunnerCgroup, RunnerCgroups};
use super::runner_command::{RunnerCommand, RunnerSettings};
use super::spawner;

/// The process of a runner that was just started. Dropping it ends the process.
pub(super) struct StartedProcess {
    pub(super) child: Child,
    /// Its cgroup, which has its limit of memory. `None`: the limit is `RLIMIT_DATA`.
    pub(super) cgroup: Option<RunnerCgroup>,
    /// The agent's end of the socket that is its standard input.
    pub(super) stream: UnixStream,
}

/// Starts the process of a runner.
///
/// # Errors
/// When the system cannot start it.
pub(super) async fn start(
    command: &RunnerCommand,
    settings: &RunnerSettings,
) -> io::Result<StartedProcess> {
    let limit = settings.memory_limit;
    let created = blocking(move || {
        let cgroups = RunnerCgroups::of_this_process();
        cgroups.map(|cgroups| cgroups.create(limit)).transpose()
    });
    let cgroup = created.await.unwrap_or_else(|error| {
        warn_without_cgroup(settings, &error);
        None
    });
    start_in(cgroup, command, settings).await
}

/// Starts a runner in `cgroup`, or without one if there is none or the runner cannot be moved there.
async fn start_in(
    cgroup: Option<RunnerCgroup>,
    command: &RunnerCommand,
    settings: &RunnerSettings,
) -> io::Result<StartedProcess> {
    if let Some(cgroup) = cgroup {
        let unlimited = RunnerSettings {
            memory_limit: None,
            ..settings.clone()
        };
        let mut started = spawn(command, &unlimited).await?;
        let pid = started.child.id().unwrap_or_default();
        // The runner has hardly taken memory yet: it loads its model on request.
        match blocking(move || cgroup.add(pid).map(|()| cgroup)).await {
            Ok(cgroup) => {
                started.cgroup = Some(cgroup);
                return Ok(started);
            }
            // Another one takes its place, since a runner sets its own limit when it starts.
            Err(error) => warn_without_cgroup(settings, &error),
        }
    }
    spawn(command, settings).await
}

/// Starts a process in the agent's own cgroup.
async fn spawn(command: &RunnerCommand, settings: &RunnerSettings) -> io::Result<StartedProcess> {
    let (stream, inherited) = std::os::unix::net::UnixStream::pair()?;
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    let mut command = Command::from(command.command(settings));
    command
        .stdin(OwnedFd::from(inherited))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    Ok(StartedProcess {
        child: spawner::spawn(command).await?,
        cgroup: None,
        stream,
    })
}

/// Does work on the files of cgroups, with which the kernel may make the caller wait, off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let done = task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?
}

fn warn_without_cgroup(settings: &RunnerSettings, error: &io::Error) {
    let model = &settings.model;
    tracing::warn!(model, %error, "the runner gets no cgroup: its memory is limited by RLIMIT_DATA");
}

#[cfg(test)]
mod tests {
    use flotilla_core::Bytes;
    use flotilla_engine::ComputeDevice;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// A program that prints its arguments to standard error.
    fn echo(dir: &std::path::Path) -> RunnerCommand {
        let path = dir.join("echo.sh");
        // Another process writes the file: one that this process has open for writing cannot be executed.
        let write = r#"printf '#!/bin/sh\necho "$@" >&2\n' > "$0" && chmod +x "$0""#;
        let mut shell = std::process::Command::new("sh");
        let written = shell.args(["-c", write]).arg(&path).status().unwrap();
        assert!(written.success());
        RunnerCommand::new(path)
    }

    #[tokio::test]
    async fn runner_that_cannot_enter_its_cgroup_gets_its_limit_without_one() {
        let dir = tempfile::tempdir().unwrap();
        let command = echo(dir.path());
        let limit = Some(Bytes(5_000));
        let settings = RunnerSettings {
            model: "m".into(),
            memory_limit: limit,
            threads: 1,
            device: ComputeDevice::Processors,
        };
        let arguments = async |cgroup| {
            let mut started = start_in(Some(cgroup), &command, &settings).await.unwrap();
            let mut printed = String::new();
            let mut stderr = started.child.stderr.take().unwrap();
            stderr.read_to_string(&mut printed).await.unwrap();
            (started.cgroup.is_some(), printed.trim().to_owned())
        };
        let cgroups = RunnerCgroups::below(dir.path());
        let usable = cgroups.create(limit).unwrap();
        let in_cgroup = (true, "runner --model m".to_owned());
        assert_eq!(arguments(usable).await, in_cgroup);
        let removed = cgroups.create(limit).unwrap();
        std::fs::remove_dir_all(removed.path()).unwrap();
        let limited = (false, "runner --model m --memory-limit 5000".to_owned());
        assert_eq!(arguments(removed).await, limited);
    }
}
