//! How long a request may take: until the first token of its answer, and until the end.

use std::time::{Duration, Instant};

use flotilla_core::generate::RequestError;

/// The time at which an answer must be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AnswerLimit {
    pub(crate) at: Instant,
    /// The limit, from the arrival of the request.
    limit: Duration,
    /// Whether the limit is the request's own deadline.
    is_own: bool,
}

/// The times at which an attempt must have begun to answer, and at which its answer must be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttemptLimits {
    pub(crate) begin_at: Instant,
    pub(crate) answer: AnswerLimit,
}

impl AnswerLimit {
    /// The limit of a request that arrived at a time: the `timeout` for all answers, or the request's own
    /// `deadline` if that is shorter.
    pub(crate) fn new(arrived: Instant, timeout: Duration, deadline: Option<Duration>) -> Self {
        let own = deadline.filter(|deadline| *deadline <= timeout);
        let limit = own.unwrap_or(timeout);
        Self {
            at: arrived + limit,
            limit,
            is_own: own.is_some(),
        }
    }

    /// Returns whether the time is up.
    pub(crate) fn has_passed(self) -> bool {
        self.at <= Instant::now()
    }

    /// The error of a request that took longer.
    pub(crate) fn error(self) -> RequestError {
        if self.is_own {
            RequestError::DeadlineUnmet(format!(
                "The request's deadline of {} ms has passed.",
                self.limit.as_millis()
            ))
        } else {
            RequestError::AnswerTimeout(format!(
                "The answer was not complete within {} s.",
                self.limit.as_secs_f32()
            ))
        }
    }
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
