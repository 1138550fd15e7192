//! `flotilla runner`: computes one model instance for the agent that started it.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use flotilla_engine::runner::{self, RunnerError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::Signal;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};

use crate::allocator;
use crate::args::RunnerArgs;

/// How much more readily than the agent the kernel ends this process for want of memory.
const OOM_SCORE_DIFFERENCE: i32 = 500;
/// The adjustment with which the kernel ends a process first.
const MAX_OOM_SCORE: i32 = 1_000;

/// Serves the agent at the other end of standard input until the agent closes it.
pub(crate) async fn run(args: RunnerArgs) -> anyhow::Result<()> {
    tracing::debug!(model = args.model, "starting a runner");
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    end_with_agent(socket.try_clone()?)?;
    raise_oom_score();
    if let Some(limit) = args.memory_limit {
        // The agent raises it for adapters, which needs no right as long as the largest limit is none.
        setrlimit(Resource::RLIMIT_DATA, limit.0, RLIM_INFINITY)
            .context("cannot limit the memory")?;
    }
    let stream = stream(socket).context(
        "standard input is no socket: only an agent starts runners, one for each of its models",
    )?;
    // A service manager signals all processes of the agent: the agent ends its runners once their requests
    // are complete.
    let _ignored = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ];
    match runner::serve(stream, allocator::release_free_memory).await {
        Err(RunnerError::Fault(fault)) => {
            tracing::error!("{fault}");
            std::process::exit(runner::FAULT_EXIT_CODE);
        }
        served => Ok(served?),
    }
}

/// Makes the kernel end this process before the agent, whose adjustment it has inherited, when memory is short.
fn raise_oom_score() {
    const FILE: &str = "/proc/self/oom_score_adj";
    let inherited = std::fs::read_to_string(FILE).ok();
    if let Some(raised) = inherited.as_deref().and_then(raised_oom_score) {
        // Without the right to it, the kernel weighs this process like the agent.
        let _ = std::fs::write(FILE, raised.to_string());
    }
}

/// The adjustment of a runner whose agent has the `inherited` one, -1000 to 1000.
fn raised_oom_score(inherited: &str) -> Option<i32> {
    let inherited: i32 = inherited.trim().parse().ok()?;
    Some((inherited + OOM_SCORE_DIFFERENCE).min(MAX_OOM_SCORE))
}

fn stream(socket: OwnedFd) -> std::io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(socket);
    // It fails for what is no socket.
    stream.peer_addr()?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Ends this process when the agent ends, however it does, and whatever this process is doing.
fn end_with_agent(socket: OwnedFd) -> anyhow::Result<()> {
    // For a process that is stopped or hangs in the kernel. The thread below covers other systems, and an
    // agent that has ended before this call.
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let wait = move || {
        let mut closed = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        // The kernel reports a closed connection without being asked to.
        while poll(&mut closed, PollTimeout::NONE).is_err() {}
        std::process::exit(0);
    };
    std::thread::Builder::new()
        .name("agent-watch".into())
        .spawn(wait)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runner_is_ended_before_its_agent() {
        assert_eq!(raised_oom_score("0\n"), Some(500));
        assert_eq!(raised_oom_score("-900"), Some(-400));
        assert_eq!(raised_oom_score("800"), Some(1_000));
        assert_eq!(raised_oom_score(""), None);
    }
}
