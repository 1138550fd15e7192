//! How long an attempt may take: until the first token of its answer, and until the end.

use std::time::Instant;

use flotilla_core::generate::{AnswerLimit, RequestError};

/// The times at which an attempt must have begun to answer, and at which its answer must be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttemptLimits {
    pub(crate) begin_at: Instant,
    pub(crate) answer: AnswerLimit,
}

impl AttemptLimits {
    /// The error of an attempt that began at a time and has not begun to answer.
    pub(crate) fn begin_error(self, began: Instant) -> RequestError {
        if self.answer.at <= self.begin_at {
            return self.answer.error();
        }
        let waited = self.begin_at.saturating_duration_since(began);
        RequestError::Timeout(format!(
            "The answer did not begin within {:.3} s.",
            waited.as_secs_f32()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn error_says_which_limit_was_exceeded() {
        let arrived = Instant::now();
        let seconds = Duration::from_secs;
        for (deadline, begin, kind) in [
            (None, 5, "timeout"),
            (None, 10, "answer_timeout"),
            (Some(20), 10, "answer_timeout"),
            (Some(7), 5, "timeout"),
            (Some(5), 5, "deadline_unmet"),
        ] {
            let limits = AttemptLimits {
                begin_at: arrived + seconds(begin),
                answer: AnswerLimit::new(arrived, seconds(10), deadline.map(seconds)),
            };
            assert_eq!(limits.begin_error(arrived).kind(), kind, "{limits:?}");
        }
    }
}
