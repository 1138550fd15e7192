//! The trial of a new revision in its first minutes: it loads, but does it answer?

use std::time::Duration;

/// How long a new revision is on trial after its first replica has become ready. Our own choice: long
/// enough for some requests, short enough that the earlier revision's files and memory are not held long.
pub const TRIAL_TIME: Duration = Duration::from_secs(180);
/// The number of failures below which nothing is concluded.
const MIN_FAILURES: u64 = 5;
/// How many times more often than the stable revision a failing one fails.
const FAILURE_FACTOR: f64 = 5.0;
/// What is assumed of the stable revision beyond what is known of it: half a failure in ten requests. It
/// keeps a few failures of a new revision from counting where little is known of the stable one.
const ASSUMED_FAILURES: f64 = 0.5;
const ASSUMED_REQUESTS: f64 = 10.0;

/// The requests to a revision, and how many of them failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RevisionHealth {
    /// Requests that were computed.
    pub requests: u64,
    /// The requests that failed because of the model or the node. Invalid requests do not count.
    pub failures: u64,
}

impl std::ops::Add for RevisionHealth {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            failures: self.failures.saturating_add(other.failures),
        }
    }
}

/// The state of a new revision's trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialState {
    /// It has not been served for long, or nothing is known of it.
    Running,
    /// It is [failing](is_failing).
    Failing(RevisionHealth),
    /// It has been served for [`TRIAL_TIME`].
    Passed,
}

/// Returns whether a new revision fails so much more often than the stable one that it is rolled back.
#[must_use]
pub fn is_failing(new: RevisionHealth, stable: RevisionHealth) -> bool {
    let failures = new.failures.min(new.requests) as f64;
    let rate = failures / new.requests.max(1) as f64;
    let stable_rate = (stable.failures as f64 + ASSUMED_FAILURES)
        / (stable.requests.max(stable.failures) as f64 + ASSUMED_REQUESTS);
    new.failures >= MIN_FAILURES && rate >= FAILURE_FACTOR * stable_rate
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn health(failures: u64, requests: u64) -> RevisionHealth {
        RevisionHealth { requests, failures }
    }

    #[test]
    fn revision_fails_with_five_failures_at_five_times_the_rate() {
        let good = health(0, 1_000);
        assert!(is_failing(health(5, 10), good));
        assert!(
            !is_failing(health(4, 4), good),
            "too few to conclude anything"
        );
        assert!(!is_failing(health(5, 5_000), good), "one in a thousand");
        let shaky = health(100, 1_000);
        assert!(!is_failing(health(40, 100), shaky), "four times as often");
        assert!(is_failing(health(60, 100), shaky));
        let unknown = health(0, 0);
        assert!(is_failing(health(5, 10), unknown));
        assert!(!is_failing(health(5, 40), unknown));
    }

    proptest! {
        #[test]
        fn more_failures_never_help(requests in 0u64..1_000, failures in 0u64..1_000,
            more in 0u64..100, stable_failures in 0u64..100, stable_requests in 0u64..1_000) {
            let stable = health(stable_failures, stable_requests);
            let requests = requests.max(failures + more);
            prop_assert!(!is_failing(health(failures, requests), stable)
                || is_failing(health(failures + more, requests), stable));
        }
    }
}
