//! Samples a few replicas of a model, of which the best one is chosen.
//!
//! Two random choices balance the load nearly as well as looking at all replicas, at a cost that does
//! not grow with the fleet (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing",
//! 2001).

use serde::{Deserialize, Serialize};

/// How busy a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaLoad {
    /// Requests that this controller dispatched to the replica and that have not ended.
    pub in_flight: u32,
    /// Requests of other controllers and clients, as the node last reported; slightly outdated.
    pub external_in_flight: u32,
    /// Number of slots, which is the number of requests that the replica computes at once. At least 1.
    pub concurrency: u32,
    /// Maximum number of requests that the replica accepts, computing and queued together.
    pub capacity: u32,
}

impl ReplicaLoad {
    /// All requests of the replica.
    #[must_use]
    pub fn requests(self) -> u32 {
        self.in_flight.saturating_add(self.external_in_flight)
    }

    /// The requests of the replica as a multiple of its slots.
    #[must_use]
    pub fn utilization(self) -> f32 {
        self.requests() as f32 / self.concurrency.max(1) as f32
    }

    /// Whether the replica would compute one more request at once.
    #[must_use]
    pub fn has_free_slot(self) -> bool {
        self.requests() < self.concurrency
    }

    /// Whether the replica would refuse one more request. Requests of others are not counted: they
    /// may have ended since the node's last report, and if not, the node refuses.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.in_flight >= self.capacity
    }
}

/// Whether a candidate can take a request.
pub enum CandidateStatus<P> {
    /// It can. Holds the value that it is compared by.
    Eligible(P),
    /// It failed repeatedly and is used only if no candidate is eligible: when all replicas fail, the
    /// cause is probably elsewhere. Holds the value that it is compared by.
    LastResort(P),
    /// It cannot take the request.
    Ineligible,
}

/// The number of eligible candidates that are compared. A smaller set is compared as a whole, which
/// is cheaper than missing the only free replica. Two would be enough to balance the load among
/// equal nodes; a fleet's nodes are not equal, and those that are fast or need little energy may be
/// few: in the simulated day of `benches/fleet_day` eight take a third fewer joules than four, and
/// answer sooner.
const SAMPLE_SIZE: usize = 8;

/// The number of random draws after which a large set counts as full.
const MAX_DRAWS: usize = 24;

/// The candidates of a sample, with their indices.
struct Sample<P> {
    eligible: Vec<(usize, P)>,
    last_resort: Vec<(usize, P)>,
}

impl<P> Sample<P> {
    fn new() -> Self {
        Self {
            eligible: Vec::with_capacity(SAMPLE_SIZE),
            last_resort: Vec::new(),
        }
    }

    /// Adds a candidate that can take the request. A candidate of a large set may be drawn more than
    /// once, and counts once.
    fn add(&mut self, index: usize, status: CandidateStatus<P>) {
        let (candidates, candidate) = match status {
            CandidateStatus::Eligible(candidate) => (&mut self.eligible, candidate),
            CandidateStatus::LastResort(candidate) => (&mut self.last_resort, candidate),
            CandidateStatus::Ineligible => return,
        };
        if candidates.iter().all(|(other, _)| *other != index) {
            candidates.push((index, candidate));
        }
    }

    /// Returns whether a candidate is in the sample as eligible.
    fn has_eligible(&self, index: usize) -> bool {
        self.eligible.iter().any(|(other, _)| *other == index)
    }

    /// Chooses one of the eligible candidates, or of those of last resort where none is eligible.
    fn choose(self, choose: impl FnOnce(&[P]) -> usize) -> Option<(usize, P)> {
        let candidates = if self.eligible.is_empty() {
            self.last_resort
        } else {
            self.eligible
        };
        let (indices, mut candidates): (Vec<usize>, Vec<P>) = candidates.into_iter().unzip();
        if candidates.is_empty() {
            return None;
        }
        let chosen = choose(&candidates).min(candidates.len() - 1);
        Some((indices[chosen], candidates.swap_remove(chosen)))
    }
}

/// Samples the candidates `0..count` and chooses one of the sample. Returns its index and its
/// value from `inspect`. Returns `None` if the sample has no candidate that can take the request; with
/// many candidates there may still be one outside the sample.
///
/// `inspect` reads a candidate, `choose` returns the index of one of several inspected candidates,
/// the first one if none is better, and `random` returns a number in `0..n`. The `preferred`
/// candidate is part of every sample, in the first place.
pub fn sample_and_choose<P>(
    count: usize,
    preferred: Option<usize>,
    mut inspect: impl FnMut(usize) -> CandidateStatus<P>,
    choose: impl FnOnce(&[P]) -> usize,
    mut random: impl FnMut(usize) -> usize,
) -> Option<(usize, P)> {
    if count == 0 {
        return None;
    }
    let mut sample = Sample::new();
    if let Some(index) = preferred {
        sample.add(index, inspect(index));
    }
    if count <= SAMPLE_SIZE {
        // A random start breaks ties evenly.
        let start = random(count);
        for i in 0..count {
            let index = (start + i) % count;
            if Some(index) != preferred {
                sample.add(index, inspect(index));
            }
        }
    } else {
        for _ in 0..MAX_DRAWS {
            let index = random(count);
            if Some(index) != preferred && !sample.has_eligible(index) {
                sample.add(index, inspect(index));
            }
            if sample.eligible.len() >= SAMPLE_SIZE {
                break;
            }
        }
    }
    sample.choose(choose)
}

/// Chooses one of all candidates `0..count`, for explanations. Returns its index and its
/// value from `inspect`, or `None` if no candidate can take the request. `inspect` and `choose` are those of
/// [`sample_and_choose`].
pub fn choose_from_all<P>(
    count: usize,
    mut inspect: impl FnMut(usize) -> CandidateStatus<P>,
    choose: impl FnOnce(&[P]) -> usize,
) -> Option<(usize, P)> {
    let mut sample = Sample::new();
    for index in 0..count {
        sample.add(index, inspect(index));
    }
    sample.choose(choose)
}

#[cfg(test)]
mod tests;
