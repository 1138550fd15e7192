//! When a replica whose estimate is unfavourable is tried again.

use super::{SpeedEstimate, TRUST_HALF_LIFE, TRUSTED_ROUNDS};
use crate::routing::ReplicaLoad;

/// Seconds in which trust in the estimate of an idle replica halves while requests queue at the best
/// other one. A replica that is truly ten times slower then gets one request at a time, with about three
/// seconds in between. Our own choice.
const QUEUED_TRUST_HALF_LIFE: f32 = 1.0;

/// How soon idle replicas are tried again whose estimates are unfavourable.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exploration {
    /// The time, in seconds of the caller's clock.
    now: f32,
    /// Seconds in which trust in the estimate of an idle replica halves.
    half_life: f32,
}

impl Exploration {
    /// No hurry: another replica answers at once.
    #[must_use]
    pub fn unhurried(now: f32) -> Self {
        Self {
            now,
            half_life: TRUST_HALF_LIFE,
        }
    }

    /// Exploration beside a replica of this `load`, the best one by the estimates: the busier it is, the
    /// sooner the other `candidates` are tried again. With more candidates each of them is tried more
    /// rarely, so that the share of late requests stays the same.
    #[must_use]
    pub fn beside(load: ReplicaLoad, candidates: usize, now: f32) -> Self {
        let hurry = QUEUED_TRUST_HALF_LIFE / TRUST_HALF_LIFE;
        let others = candidates.saturating_sub(1).max(1) as f32;
        let half_life = TRUST_HALF_LIFE * hurry.powf(load.utilization().min(1.0).powi(2)) * others;
        Self {
            now,
            half_life: half_life.min(TRUST_HALF_LIFE),
        }
    }

    /// How far it is trusted that the replica `worse` is worse than another of the estimate `better`, 0
    /// to 1. Only the worse one is doubted: the better one is used, and so its estimate is soon right.
    #[must_use]
    pub(crate) fn trust_in_ratio(
        self,
        (load, worse): (ReplicaLoad, SpeedEstimate),
        better: SpeedEstimate,
    ) -> f32 {
        let trust = worse.trust(load, self) + better.exploration_bonus(self.now) - 1.0;
        trust.max(0.0)
    }
}

impl SpeedEstimate {
    /// How far the estimate of a replica of this load is trusted when another one seems better, 0 to 1. A
    /// replica that has none of this process's requests is doubted the more the fewer rounds of answers
    /// it has given; one that is just being tried is not, so that it gets one request at a time.
    fn trust(self, load: ReplicaLoad, exploration: Exploration) -> f32 {
        let Exploration { now, half_life } = exploration;
        if load.in_flight > 0 {
            return self.exploration_bonus(now);
        }
        let confirmed = f32::from(self.rounds.saturating_sub(1)) / f32::from(TRUSTED_ROUNDS - 1);
        confirmed * 0.5_f32.powf((now - self.updated).max(0.0) / half_life)
    }
}
