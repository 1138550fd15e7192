//! How the process of a model instance ended.

use flotilla_core::Bytes;
use serde::{Deserialize, Serialize};

/// How the process of a model instance ended, although nobody had asked it to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("its process {cause}{}", log_suffix(.log))]
pub struct ProcessEnd {
    /// Why it ended.
    pub cause: EndCause,
    /// The last lines that it logged, oldest first.
    pub log: Vec<String>,
}

/// Why a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum EndCause {
    /// The system could not start it.
    #[error("could not be started: {0}")]
    NotStarted(String),
    /// It ended itself with this exit code.
    #[error("ended with exit code {0}")]
    ExitCode(i32),
    /// This signal ended it.
    #[error("was ended by {}", signal_name(*.0))]
    Signal(i32),
    /// The kernel ended it since the node had no memory left.
    #[error("was ended by signal 9: the node ran out of memory")]
    NodeOutOfMemory,
    /// The system gave it no further thread.
    #[error("could not start a thread: the system had none left for it")]
    NoThread,
    /// It needed more memory than this limit.
    #[error("needed more memory than its limit of {0}")]
    MemoryLimit(Bytes),
    /// It did not answer for this many seconds, so that the agent ended it.
    #[error("did not respond for {0} s, and was ended")]
    Silent(u64),
    /// Its model could never answer again; the text says why.
    #[error("ended itself: {0}")]
    Fault(String),
}

impl EndCause {
    /// What an operator can do about the end.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotStarted(_) => "check the node's limits on processes, memory and open files",
            Self::NoThread => {
                "raise the limits on threads (ulimit -u, TasksMax of the service, pids of the container), or free memory"
            }
            Self::NodeOutOfMemory => {
                "lower --memory of the node to what it really has for models, or end what else takes its memory"
            }
            Self::MemoryLimit(_) => {
                "raise spec.memory, or lower spec.concurrency or spec.options.contextLength"
            }
            Self::Silent(_) => {
                "see whether the node is overloaded or swaps; the model is started again"
            }
            Self::ExitCode(_) | Self::Signal(_) | Self::Fault(_) => {
                "see the agent's log, which has what the process logged"
            }
        }
    }
}

/// A process of a model that the agent cannot end: it waits in the kernel, for a drive or a driver that hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the process {process} of this model does not end after SIGKILL: it waits in the kernel and keeps its memory; \
     the model is started again on this node only once it has ended"
)]
pub struct StuckProcess {
    /// Its process id.
    pub process: u32,
}

impl StuckProcess {
    /// What an operator can do about the process.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        "check the drive that the model's files are on and the accelerator's driver: one of them hangs"
    }
}

/// The names of the signals that end processes by mistake.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        4 => "SIGILL: the processor lacks an instruction that the build uses",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}

fn log_suffix(log: &[String]) -> String {
    match log.last() {
        Some(line) => format!("; it logged last: {line}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_the_signal_and_the_last_line() {
        let end = |cause, log: &[&str]| {
            let log = log.iter().map(|line| (*line).to_owned()).collect();
            ProcessEnd { cause, log }.to_string()
        };
        assert_eq!(
            end(EndCause::Signal(11), &["loading", "tensor 7"]),
            "its process was ended by signal 11 (SIGSEGV); it logged last: tensor 7"
        );
        assert_eq!(
            end(EndCause::NodeOutOfMemory, &[]),
            "its process was ended by signal 9: the node ran out of memory"
        );
        assert_eq!(
            end(EndCause::Signal(64), &[]),
            "its process was ended by signal 64"
        );
    }
}
