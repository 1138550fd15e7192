//! Power of two choices: look at two random replicas, take the less loaded one. Nearly as
//! balanced as looking at all, at a cost that does not grow with the fleet (Mitzenmacher,
//! "The Power of Two Choices in Randomized Load Balancing", 2001).

use serde::{Deserialize, Serialize};

/// How busy a replica is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Requests dispatched to it from here and not finished.
    pub in_flight: u32,
    /// Requests that it has from elsewhere, as it said last: a little old.
    pub elsewhere: u32,
    /// Requests it computes at once, at least 1.
    pub concurrency: u32,
    /// Requests it takes at most, computing and waiting.
    pub capacity: u32,
}

impl Load {
    /// Whether one more request would be refused, as far as is known here: what it has from
    /// elsewhere may be gone by now, and if it is not, the replica says so.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.in_flight >= self.capacity
    }

    /// Whether `self` is relatively less busy than `other`: requests per concurrency, compared
    /// without dividing.
    fn less_busy_than(self, other: Self) -> bool {
        let all = |load: Self| u64::from(load.in_flight) + u64::from(load.elsewhere);
        all(self) * u64::from(other.concurrency) < all(other) * u64::from(self.concurrency)
    }
}

/// Up to this many candidates all are looked at: cheaper than missing the only free one.
const LOOK_AT_ALL: usize = 8;

/// Draws before a large set counts as full.
const DRAWS: usize = 16;

/// Picks one of `0..candidates` that is neither excluded nor full.
///
/// `load` reads the load of a candidate that is looked at, `excluded` says that it was tried already, and `random`
/// yields a number in `0..n`. `None` means that no candidate was found; with many candidates
/// that is a sample's verdict, not a proof.
pub fn two_choices(
    candidates: usize,
    mut load: impl FnMut(usize) -> Load,
    excluded: impl Fn(usize) -> bool,
    mut random: impl FnMut(usize) -> usize,
) -> Option<usize> {
    if candidates == 0 {
        return None;
    }
    let mut best: Option<(usize, Load)> = None;
    // Whether the candidate can take the request; if so it is compared with the best so far.
    let mut consider = |index: usize| {
        if excluded(index) {
            return false;
        }
        let here = load(index);
        if here.is_full() {
            return false;
        }
        if best.is_none_or(|(_, other)| here.less_busy_than(other)) {
            best = Some((index, here));
        }
        true
    };
    if candidates <= LOOK_AT_ALL {
        // A random start breaks ties evenly.
        let start = random(candidates);
        for i in 0..candidates {
            consider((start + i) % candidates);
        }
    } else {
        let mut able = 0;
        for _ in 0..DRAWS {
            able += u32::from(consider(random(candidates)));
            if able == 2 {
                break;
            }
        }
    }
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(in_flight: u32) -> Load {
        Load {
            in_flight,
            elsewhere: 0,
            concurrency: 4,
            capacity: 8,
        }
    }

    /// A small deterministic generator (xorshift), enough to spread draws.
    fn draws(mut state: u64) -> impl FnMut(usize) -> usize {
        move |n| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % n as u64) as usize
        }
    }

    #[test]
    fn the_idle_one_of_two_is_taken() {
        let loads = [load(3), load(1)];
        for seed in 1..20 {
            let pick = two_choices(2, |i| loads[i], |_| false, draws(seed));
            assert_eq!(pick, Some(1));
        }
    }

    #[test]
    fn load_is_relative_to_concurrency() {
        let big = Load {
            in_flight: 6,
            elsewhere: 0,
            concurrency: 16,
            capacity: 32,
        };
        let loads = [load(2), big];
        assert_eq!(two_choices(2, |i| loads[i], |_| false, draws(1)), Some(1));
    }

    #[test]
    fn what_others_send_counts_for_the_choice_but_not_as_full() {
        let busy_elsewhere = Load {
            elsewhere: 9,
            ..load(0)
        };
        let loads = [busy_elsewhere, load(2)];
        assert_eq!(two_choices(2, |i| loads[i], |_| false, draws(1)), Some(1));
        let alone = two_choices(1, |_| busy_elsewhere, |_| false, draws(1));
        assert_eq!(alone, Some(0));
    }

    #[test]
    fn none_is_picked_when_all_are_full_or_tried() {
        assert_eq!(two_choices(3, |_| load(8), |_| false, draws(1)), None);
        assert_eq!(two_choices(3, |_| load(0), |_| true, draws(1)), None);
        assert_eq!(two_choices(0, |_| load(0), |_| false, draws(1)), None);
    }

    #[test]
    fn ties_are_spread() {
        let mut random = draws(7);
        let mut hits = [0u32; 3];
        for _ in 0..3_000 {
            hits[two_choices(3, |_| load(0), |_| false, &mut random).unwrap()] += 1;
        }
        assert!(hits.iter().all(|h| (800..1_200).contains(h)), "{hits:?}");
    }

    proptest! {
        #[test]
        fn a_full_or_excluded_candidate_is_never_picked(
            in_flight in proptest::collection::vec(0u32..12, 1..40),
            tried in proptest::collection::vec(any::<bool>(), 40),
            seed in 1u64..,
        ) {
            let pick = two_choices(in_flight.len(), |i| load(in_flight[i]), |i| tried[i], draws(seed));
            if let Some(i) = pick {
                prop_assert!(!load(in_flight[i]).is_full());
                prop_assert!(!tried[i]);
            }
        }
    }
}
