//! The limits that an answer keeps, whichever way a request takes to it.
//!
//! There is one check, [`RequestLimits::violation`]. Named models, tasks, fallback models, the tiers of a
//! cascade, hedges, retries and dry runs all make it before a replica gets the request.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{AnswerLimits, ExpectedAnswer};
use crate::{HumanDuration, Joules, ZoneName};

/// Everything that the answer to a request has to keep.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestLimits<'a> {
    /// The limits of the request and its task.
    pub answer: AnswerLimits,
    /// The privacy zones that the request may enter. `None`: any node.
    pub zones: Option<&'a BTreeSet<ZoneName>>,
    /// The time to the request's own deadline, if it has one.
    pub remaining: Option<Duration>,
    /// What earlier attempts have taken.
    pub spent: SpentResources,
}

/// What the attempts of a request have taken so far. It counts towards the limits of the next one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SpentResources {
    /// Seconds since the first attempt.
    pub seconds: f32,
    /// Energy above idle.
    pub joules: Joules,
}

/// What is known of a replica before it gets a request.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExpectedReplica<'a> {
    /// The privacy zones of its node. `None`: it is in no zone.
    pub zones: Option<&'a BTreeSet<ZoneName>>,
    /// The answer that is expected of it.
    pub answer: ExpectedAnswer,
}

/// The limit that a replica does not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitViolation {
    /// The node is in no privacy zone that the request may enter.
    Zone,
    /// The quality of this revision was never measured.
    NotMeasured,
    /// The quality is too low.
    Quality,
    /// The answer is predicted to come after the request's deadline.
    Deadline,
    /// The predicted time is too long.
    Latency,
    /// The predicted energy is too high.
    Energy,
}

impl LimitViolation {
    /// Whether the replica violates the limit however busy it is.
    #[must_use]
    pub fn is_lasting(self) -> bool {
        matches!(self, Self::Zone | Self::NotMeasured | Self::Quality)
    }
}

impl RequestLimits<'_> {
    /// Returns the first limit that the replica does not keep, if any. An unknown quality violates a
    /// minimum. An unknown time or energy violates nothing: otherwise the replica would never be tried and
    /// measured.
    #[must_use]
    pub fn violation(&self, replica: ExpectedReplica<'_>) -> Option<LimitViolation> {
        let is_inside = |allowed: &BTreeSet<ZoneName>| {
            let zones = replica.zones;
            zones.is_some_and(|zones| !zones.is_disjoint(allowed))
        };
        if !self.zones.is_none_or(is_inside) {
            return Some(LimitViolation::Zone);
        }
        let ExpectedAnswer {
            quality,
            seconds,
            joules,
        } = replica.answer;
        match (self.answer.min_quality, quality) {
            (Some(_), None) => return Some(LimitViolation::NotMeasured),
            (Some(least), Some(quality)) if quality < least => {
                return Some(LimitViolation::Quality);
            }
            _ => {}
        }
        let is_late = |limit: Duration, seconds: f32| seconds > limit.as_secs_f32();
        if let (Some(remaining), Some(seconds)) = (self.remaining, seconds)
            && is_late(remaining, seconds)
        {
            return Some(LimitViolation::Deadline);
        }
        if let (Some(HumanDuration(longest)), Some(seconds)) = (self.answer.max_latency, seconds)
            && is_late(longest, self.spent.seconds + seconds)
        {
            return Some(LimitViolation::Latency);
        }
        let Joules(spent) = self.spent.joules;
        match (self.answer.max_joules, joules) {
            (Some(Joules(most)), Some(Joules(joules))) if spent + joules > most => {
                Some(LimitViolation::Energy)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(name: &str) -> ZoneName {
        ZoneName::new(name).unwrap()
    }

    #[test]
    fn each_limit_is_checked_by_itself() {
        let zones = BTreeSet::from([zone("clinic")]);
        let clinic_and_shop = BTreeSet::from([zone("clinic"), zone("shop")]);
        let shop = BTreeSet::from([zone("shop")]);
        let limits = RequestLimits {
            answer: AnswerLimits {
                min_quality: Some(0.9),
                max_latency: Some(HumanDuration(Duration::from_millis(500))),
                max_joules: Some(Joules(2.0)),
            },
            zones: Some(&zones),
            remaining: Some(Duration::from_secs(1)),
            spent: SpentResources::default(),
        };
        let good = ExpectedReplica {
            zones: Some(&clinic_and_shop),
            answer: ExpectedAnswer {
                quality: Some(0.9),
                seconds: Some(0.5),
                joules: Some(Joules(2.0)),
            },
        };
        let with = |change: fn(&mut ExpectedAnswer)| {
            let mut replica = good;
            change(&mut replica.answer);
            limits.violation(replica)
        };
        assert_eq!(limits.violation(good), None);
        for zones in [None, Some(&shop), Some(&BTreeSet::new())] {
            let replica = ExpectedReplica { zones, ..good };
            assert_eq!(limits.violation(replica), Some(LimitViolation::Zone));
        }
        let violations = [
            (with(|a| a.quality = None), LimitViolation::NotMeasured),
            (with(|a| a.quality = Some(0.89)), LimitViolation::Quality),
            (with(|a| a.seconds = Some(1.1)), LimitViolation::Deadline),
            (with(|a| a.seconds = Some(0.6)), LimitViolation::Latency),
            (
                with(|a| a.joules = Some(Joules(2.1))),
                LimitViolation::Energy,
            ),
        ];
        for (found, expected) in violations {
            assert_eq!(found, Some(expected));
        }
        assert_eq!(with(|a| (a.seconds, a.joules) = (None, None)), None);
        let nothing = RequestLimits::default();
        assert_eq!(nothing.violation(ExpectedReplica::default()), None);
    }

    #[test]
    fn what_earlier_attempts_took_counts() {
        let limits = |seconds, joules| RequestLimits {
            answer: AnswerLimits {
                max_latency: Some(HumanDuration(Duration::from_secs(1))),
                max_joules: Some(Joules(2.0)),
                ..AnswerLimits::default()
            },
            spent: SpentResources {
                seconds,
                joules: Joules(joules),
            },
            ..RequestLimits::default()
        };
        let replica = ExpectedReplica {
            zones: None,
            answer: ExpectedAnswer {
                quality: None,
                seconds: Some(0.6),
                joules: Some(Joules(1.5)),
            },
        };
        assert_eq!(limits(0.3, 0.5).violation(replica), None);
        let violation = limits(0.5, 0.0).violation(replica);
        assert_eq!(violation, Some(LimitViolation::Latency));
        let violation = limits(0.0, 0.6).violation(replica);
        assert_eq!(violation, Some(LimitViolation::Energy));
    }
}
