//! The trial of a new revision in its first minutes: it loads, but does it answer?

use std::time::Duration;

/// The duration of a trial, from the moment at which the first replica of the new revision is ready. It is
/// long enough for some requests, and short enough that the files and the memory of the stable revision are
/// not held for long.
pub const TRIAL_TIME: Duration = Duration::from_secs(180);
/// The minimum number of failures of a new revision that is rolled back.
const MIN_FAILURES: u64 = 5;
/// A new revision is rolled back if its failure rate is this multiple of the stable revision's.
const FAILURE_FACTOR: f64 = 5.0;
/// The failure rate from which a revision fails most of its requests. A new revision is not rolled back to
/// such a stable one: their requests have a common fault.
const FAILS_MOST: f64 = 0.5;
/// Failures and requests that are added to those of the stable revision: a rate of few requests says
/// little, and a new revision needs more failures to exceed it.
const ASSUMED_FAILURES: f64 = 0.5;
const ASSUMED_REQUESTS: f64 = 10.0;
/// The minimum number of requests to the stable revision during the trial for their failure rate to count.
const MIN_REQUESTS: u64 = 5;

/// The number of requests to a revision, and of those that failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RevisionHealth {
    /// Requests that were computed.
    pub requests: u64,
    /// Requests that failed because of the model. Invalid requests and unreachable upstream servers do not
    /// count.
    pub failures: u64,
}

impl RevisionHealth {
    /// Returns the number of failures that were counted after `earlier`, and of requests.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failures: self.failures.saturating_sub(earlier.failures),
        }
    }

    /// Returns whether at least half of the requests failed.
    #[must_use]
    pub fn fails_most(self) -> bool {
        self.failure_rate() >= FAILS_MOST
    }

    /// Returns the share of the requests that failed, from 0 to 1. Returns 0 without requests.
    fn failure_rate(self) -> f64 {
        self.failures.min(self.requests) as f64 / self.requests.max(1) as f64
    }
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

/// The requests to the stable revision, with which those to the new one are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StableHealth {
    /// All requests that are known.
    pub total: RevisionHealth,
    /// The requests since the trial began.
    pub during_trial: RevisionHealth,
}

impl StableHealth {
    /// Returns the failure rate to compare with: the higher one of all requests and of those during the
    /// trial, which have the same faults around the model as those of the new revision.
    fn failure_rate(self) -> f64 {
        let RevisionHealth { requests, failures } = self.total;
        let total = (failures.min(requests) as f64 + ASSUMED_FAILURES)
            / (requests as f64 + ASSUMED_REQUESTS);
        if self.during_trial.requests < MIN_REQUESTS {
            return total;
        }
        total.max(self.during_trial.failure_rate())
    }
}

/// The state of a new revision's trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialState {
    /// The trial has not begun, or has begun less than [`TRIAL_TIME`] ago.
    Running,
    /// The revision is [failing](is_failing).
    Failing(RevisionHealth),
    /// The trial began [`TRIAL_TIME`] ago.
    Passed,
}

/// Returns whether a new revision fails so much more often than the stable one that it is rolled back.
#[must_use]
pub fn is_failing(new: RevisionHealth, stable: StableHealth) -> bool {
    let stable_rate = stable.failure_rate();
    // A multiple of a high rate cannot be reached: there, the new revision fails if it answers at most half
    // as many of its requests.
    let threshold = (FAILURE_FACTOR * stable_rate).min(f64::midpoint(1.0, stable_rate));
    new.failures >= MIN_FAILURES && stable_rate < FAILS_MOST && new.failure_rate() >= threshold
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn health(failures: u64, requests: u64) -> RevisionHealth {
        RevisionHealth { requests, failures }
    }

    /// A stable revision of which nothing was counted during the trial.
    fn stable(failures: u64, requests: u64) -> StableHealth {
        StableHealth {
            total: health(failures, requests),
            ..StableHealth::default()
        }
    }

    #[test]
    fn revision_fails_with_five_failures_at_five_times_the_rate() {
        let good = stable(0, 1_000);
        assert!(is_failing(health(5, 10), good));
        assert!(
            !is_failing(health(4, 4), good),
            "too few to conclude anything"
        );
        assert!(!is_failing(health(5, 5_000), good), "one in a thousand");
        let shaky = stable(100, 1_000);
        assert!(!is_failing(health(40, 100), shaky), "four times as often");
        assert!(is_failing(health(60, 100), shaky));
        let unknown = stable(0, 0);
        assert!(is_failing(health(5, 10), unknown));
        assert!(!is_failing(health(5, 40), unknown));
    }

    #[test]
    fn revision_is_also_rolled_back_to_a_stable_one_that_fails_often() {
        let often = stable(300, 1_000);
        assert!(!is_failing(health(6, 10), often));
        assert!(is_failing(health(7, 10), often));
        assert!(is_failing(health(10, 10), stable(49, 100)));
        assert!(
            !is_failing(health(10, 10), stable(600, 1_000)),
            "both fail: nothing is gained"
        );
    }

    #[test]
    fn fault_that_both_revisions_have_during_the_trial_rolls_nothing_back() {
        let good_before = |during_trial| StableHealth {
            total: health(0, 1_000) + during_trial,
            during_trial,
        };
        assert!(!is_failing(health(9, 10), good_before(health(8, 10))));
        assert!(!is_failing(health(5, 10), good_before(health(3, 10))));
        assert!(is_failing(health(9, 10), good_before(health(1, 10))));
        let too_few = good_before(health(4, 4));
        assert!(is_failing(health(9, 10), too_few));
    }

    proptest! {
        #[test]
        fn more_failures_never_help(requests in 0u64..1_000, failures in 0u64..1_000,
            more in 0u64..100, stable_failures in 0u64..100, stable_requests in 0u64..1_000) {
            let stable = stable(stable_failures, stable_requests);
            let requests = requests.max(failures + more);
            prop_assert!(!is_failing(health(failures, requests), stable)
                || is_failing(health(failures + more, requests), stable));
        }
    }
}
