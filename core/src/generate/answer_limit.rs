//! How long a request may take until its answer is complete.

use std::time::{Duration, Instant};

use super::RequestError;

/// The time at which an answer must be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerLimit {
    /// The time itself.
    pub at: Instant,
    /// The limit, from the arrival of the request.
    limit: Duration,
    /// Whether the limit is the request's own deadline.
    is_own: bool,
}

impl AnswerLimit {
    /// The limit of a request that arrived at a time: the `timeout` for all answers, or the request's own
    /// `deadline` if that is shorter.
    #[must_use]
    pub fn new(arrived: Instant, timeout: Duration, deadline: Option<Duration>) -> Self {
        let own = deadline.filter(|deadline| *deadline <= timeout);
        let limit = own.unwrap_or(timeout);
        Self {
            at: arrived + limit,
            limit,
            is_own: own.is_some(),
        }
    }

    /// Returns whether the time is up at the time `now`.
    #[must_use]
    pub fn has_passed(self, now: Instant) -> bool {
        self.at <= now
    }

    /// The error of a request that took longer.
    #[must_use]
    pub fn error(self) -> RequestError {
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
