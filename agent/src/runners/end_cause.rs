//! Why a runner ended, from what is known of it.

use flotilla_core::Bytes;
use flotilla_engine::EndCause;
use flotilla_engine::runner::FAULT_EXIT_CODE;

use super::health_check::SILENCE_LIMIT;
use super::runner_cgroup::OutOfMemory;

/// What is known of a runner that ended although nobody had asked it to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct EndEvidence<'a> {
    /// Its exit code, if it ended itself.
    pub(super) exit_code: Option<i32>,
    /// The signal that ended it.
    pub(super) signal: Option<i32>,
    /// Whether the agent ended it since it did not respond.
    pub(super) was_silent: bool,
    /// Whether the kernel has ended it for want of memory, as its cgroup says; without one, whether the kernel has
    /// ended a process of this machine just before.
    pub(super) out_of_memory: Option<OutOfMemory>,
    /// The memory that it was allowed.
    pub(super) memory_limit: Option<Bytes>,
    /// The last lines that it logged, oldest first.
    pub(super) log: &'a [String],
}

/// The signal that the kernel ends a process with, and the one of a process that aborts itself.
const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;
/// The exit codes of a Rust program whose main function has returned an error, and whose main thread has
/// panicked.
const FAILED: i32 = 1;
const PANICKED: i32 = 101;
/// What a process that gets no memory prints before it ends: the standard libraries of Rust and C++, and the
/// system's own errors for memory and for the stacks of threads.
const ALLOCATION_FAILED: [&str; 3] = [
    "memory allocation of",
    "std::bad_alloc",
    "Cannot allocate memory",
];
/// What a process that gets no thread prints before it ends: the system's error, and the libraries' own.
const THREAD_FAILED: [&str; 3] = [
    "Resource temporarily unavailable",
    "failed to spawn thread",
    "spawn worker thread",
];

/// Returns the most likely cause.
pub(super) fn end_cause(evidence: EndEvidence<'_>) -> EndCause {
    let has_logged = |texts: &[&str]| {
        let mut lines = evidence.log.iter();
        lines.any(|line| texts.iter().any(|text| line.contains(text)))
    };
    let own_end = match (evidence.exit_code, evidence.signal) {
        (_, Some(signal)) => EndCause::Signal(signal),
        (Some(FAULT_EXIT_CODE), None) => {
            EndCause::Fault(evidence.log.last().cloned().unwrap_or_default())
        }
        (code, None) => EndCause::ExitCode(code.unwrap_or_default()),
    };
    match (evidence.exit_code, evidence.signal) {
        _ if evidence.was_silent => EndCause::Silent(SILENCE_LIMIT.as_secs()),
        (_, Some(SIGKILL)) if evidence.out_of_memory == Some(OutOfMemory::Runner) => {
            evidence.memory_limit.map_or(own_end, EndCause::MemoryLimit)
        }
        (_, Some(SIGKILL)) if evidence.out_of_memory.is_some() => EndCause::NodeOutOfMemory,
        (Some(FAILED | PANICKED), None) | (None, Some(SIGABRT))
            if has_logged(&ALLOCATION_FAILED) =>
        {
            evidence.memory_limit.map_or(own_end, EndCause::MemoryLimit)
        }
        // The stack of a thread counts towards a limit on memory.
        (Some(FAILED | PANICKED), None) | (None, Some(SIGABRT)) if has_logged(&THREAD_FAILED) => {
            evidence
                .memory_limit
                .map_or(EndCause::NoThread, EndCause::MemoryLimit)
        }
        _ => own_end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_cause() {
        let nothing = EndEvidence::default();
        let by_signal = |signal| EndEvidence {
            signal: Some(signal),
            ..nothing
        };
        let limit = Bytes(7);
        let log = [
            "memory allocation of 99 bytes failed".to_owned(),
            "stack backtrace".to_owned(),
        ];
        let no_thread = ["Resource temporarily unavailable (os error 11)".to_owned()];
        let threadless = EndEvidence {
            exit_code: Some(FAILED),
            log: &no_thread,
            ..nothing
        };
        let starved = EndEvidence {
            log: &log,
            ..by_signal(SIGABRT)
        };
        let cases = [
            (by_signal(SIGKILL), EndCause::Signal(SIGKILL)),
            (
                EndEvidence {
                    out_of_memory: Some(OutOfMemory::Node),
                    ..by_signal(SIGKILL)
                },
                EndCause::NodeOutOfMemory,
            ),
            (
                EndEvidence {
                    out_of_memory: Some(OutOfMemory::Runner),
                    memory_limit: Some(limit),
                    ..by_signal(SIGKILL)
                },
                EndCause::MemoryLimit(limit),
            ),
            (
                EndEvidence {
                    out_of_memory: Some(OutOfMemory::Node),
                    ..by_signal(11)
                },
                EndCause::Signal(11),
            ),
            (
                EndEvidence {
                    memory_limit: Some(limit),
                    ..starved
                },
                EndCause::MemoryLimit(limit),
            ),
            (starved, EndCause::Signal(SIGABRT)),
            (threadless, EndCause::NoThread),
            (
                EndEvidence {
                    memory_limit: Some(limit),
                    ..threadless
                },
                EndCause::MemoryLimit(limit),
            ),
            (
                EndEvidence {
                    was_silent: true,
                    ..by_signal(SIGKILL)
                },
                EndCause::Silent(SILENCE_LIMIT.as_secs()),
            ),
            (
                EndEvidence {
                    exit_code: Some(FAULT_EXIT_CODE),
                    log: &log,
                    ..nothing
                },
                EndCause::Fault("stack backtrace".into()),
            ),
            (
                EndEvidence {
                    exit_code: Some(101),
                    ..nothing
                },
                EndCause::ExitCode(101),
            ),
        ];
        for (evidence, cause) in cases {
            assert_eq!(end_cause(evidence), cause);
        }
    }
}
