//! When a model instance whose process has ended is started again.

use std::time::{Duration, Instant};

use super::InstanceError;
use super::instance::{CheckResult, InstanceEvent};

/// The first wait before a restart; each further one is longer by [`FACTOR`].
const FIRST_DELAY: Duration = Duration::from_secs(1);
const FACTOR: u32 = 4;
/// The number of ends within [`PERIOD`] after which the node gives up: the controllers then place the model
/// elsewhere, or here again later.
const MAX_ENDS: usize = 5;
/// How long an end counts.
const PERIOD: Duration = Duration::from_secs(600);

/// The recent ends of an instance's processes.
#[derive(Debug, Clone, Default)]
pub(super) struct Restarts {
    ends: Vec<Instant>,
}

impl Restarts {
    /// Records an event at the time `now`, and returns it with the decision when the instance is started again,
    /// if its process has ended or its restart has failed.
    pub(super) fn decide(&mut self, event: InstanceEvent, now: Instant) -> InstanceEvent {
        let is_restart = !self.ends.is_empty();
        match event {
            InstanceEvent::EngineFailed { error, .. } => InstanceEvent::EngineFailed {
                error,
                restart_after: self.record_end(now),
            },
            InstanceEvent::Loaded(Err(error)) if is_restart => self.restart_failed(error, now),
            InstanceEvent::Fetched(Err(error)) if is_restart => self.restart_failed(error, now),
            InstanceEvent::Checked(CheckResult::Unusable(error))
            | InstanceEvent::StartFailed(error)
                if is_restart =>
            {
                self.restart_failed(error, now)
            }
            event => event,
        }
    }

    fn restart_failed(&mut self, error: impl Into<InstanceError>, now: Instant) -> InstanceEvent {
        InstanceEvent::RestartFailed {
            error: error.into(),
            restart_after: self.record_end(now),
        }
    }

    /// Records that the process has ended, or could not be started again, at the time `now`. Returns the time
    /// until it is started again, or `None` when it has ended too often.
    fn record_end(&mut self, now: Instant) -> Option<Duration> {
        let counts = |end: &Instant| now.saturating_duration_since(*end) < PERIOD;
        self.ends.retain(counts);
        self.ends.push(now);
        let earlier = u32::try_from(self.ends.len() - 1).unwrap_or(u32::MAX);
        (self.ends.len() < MAX_ENDS).then(|| FIRST_DELAY * FACTOR.saturating_pow(earlier))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::ArtifactError;
    use flotilla_engine::LoadError;

    #[test]
    fn each_restart_waits_longer_until_the_node_gives_up() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        let delays: Vec<_> = (0..5).map(|_| restarts.record_end(now)).collect();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(
            delays,
            [seconds(1), seconds(4), seconds(16), seconds(64), None]
        );
    }

    #[test]
    fn old_ends_are_forgotten() {
        let mut restarts = Restarts::default();
        let now = Instant::now();
        for _ in 0..4 {
            restarts.record_end(now);
        }
        let later = now + PERIOD;
        assert_eq!(restarts.record_end(later), Some(FIRST_DELAY));
    }

    #[test]
    fn only_a_restart_that_fails_is_tried_again() {
        let now = Instant::now();
        let failures = || {
            let error = || LoadError::Engine("no memory".into());
            [
                InstanceEvent::Loaded(Err(error())),
                InstanceEvent::Checked(CheckResult::Unusable(error().into())),
                InstanceEvent::StartFailed(error().into()),
                InstanceEvent::Fetched(Err(ArtifactError::NotOnControllers("w".into()))),
            ]
        };
        for failed in failures() {
            let first = Restarts::default().decide(failed, now);
            assert!(!matches!(first, InstanceEvent::RestartFailed { .. }));
        }
        for failed in failures() {
            let mut restarts = Restarts::default();
            restarts.record_end(now);
            let InstanceEvent::RestartFailed { restart_after, .. } = restarts.decide(failed, now)
            else {
                panic!("a restart has failed");
            };
            assert_eq!(restart_after, Some(Duration::from_secs(4)));
        }
    }
}
