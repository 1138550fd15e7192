//! Power of two choices: look at two random replicas, take the one that will answer sooner. Nearly
//! as balanced as looking at all, at a cost that does not grow with the fleet (Mitzenmacher, "The
//! Power of Two Choices in Randomized Load Balancing", 2001).

use serde::{Deserialize, Serialize};

use crate::estimate::{Pace, compare};

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
}

/// A replica as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prospect {
    pub load: Load,
    /// How fast it answers, if that is known.
    pub pace: Option<Pace>,
    /// Whether its breaker lets requests through.
    pub admitted: bool,
}

/// Up to this many candidates all are looked at: cheaper than missing the only free one.
const LOOK_AT_ALL: usize = 8;

/// Draws before a large set counts as full.
const DRAWS: usize = 16;

/// Picks one of `0..candidates` that is neither excluded nor full.
///
/// `look` reads a candidate, `excluded` says that it was tried already, `random`
/// yields a number in `0..n`, and `now` is in seconds of the clock of the paces. `None` means that
/// no candidate was found; with many candidates that is a sample's verdict, not a proof. One whose breaker
/// is open is taken only where there is no other: what fails everywhere is not the replicas' fault.
pub fn select(
    candidates: usize,
    mut look: impl FnMut(usize) -> Prospect,
    excluded: impl Fn(usize) -> bool,
    mut random: impl FnMut(usize) -> usize,
    now: f32,
) -> Option<usize> {
    if candidates == 0 {
        return None;
    }
    let mut best: Option<(usize, Prospect)> = None;
    // Whether the candidate can take the request; if so it is compared with the best so far.
    let mut consider = |index: usize| {
        if excluded(index) {
            return false;
        }
        let here = look(index);
        if here.load.is_full() {
            return false;
        }
        let sooner = |other: Prospect| {
            if here.admitted != other.admitted {
                return here.admitted;
            }
            let (here, other) = compare((here.load, here.pace), (other.load, other.pace), now);
            here < other
        };
        if best.is_none_or(|(_, other)| sooner(other)) {
            best = Some((index, here));
        }
        here.admitted
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

    fn prospect(load: Load) -> Prospect {
        Prospect {
            load,
            pace: None,
            admitted: true,
        }
    }

    /// The pick among replicas of unknown pace.
    fn pick(loads: &[Load], seed: u64) -> Option<usize> {
        select(
            loads.len(),
            |i| prospect(loads[i]),
            |_| false,
            draws(seed),
            0.0,
        )
    }

    #[test]
    fn the_idle_one_of_two_is_taken() {
        for seed in 1..20 {
            assert_eq!(pick(&[load(3), load(1)], seed), Some(1));
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
        assert_eq!(pick(&[load(2), big], 1), Some(1));
    }

    #[test]
    fn what_others_send_counts_for_the_choice_but_not_as_full() {
        let busy_elsewhere = Load {
            elsewhere: 9,
            ..load(0)
        };
        assert_eq!(pick(&[busy_elsewhere, load(2)], 1), Some(1));
        assert_eq!(pick(&[busy_elsewhere], 1), Some(0));
    }

    #[test]
    fn none_is_picked_when_all_are_full_or_tried() {
        assert_eq!(pick(&[load(8), load(8), load(8)], 1), None);
        assert_eq!(
            select(3, |_| prospect(load(0)), |_| true, draws(1), 0.0),
            None
        );
        assert_eq!(pick(&[], 1), None);
    }

    #[test]
    fn an_open_breaker_is_the_last_resort() {
        for replicas in [3, 30] {
            let look = |open: fn(usize) -> bool| {
                move |i: usize| Prospect {
                    admitted: !open(i),
                    ..prospect(load(if open(i) { 0 } else { 7 }))
                }
            };
            for seed in 1..20 {
                let picked = select(replicas, look(|i| i == 1), |_| false, draws(seed), 0.0);
                assert_ne!(picked.unwrap(), 1);
            }
            let all = select(replicas, look(|_| true), |_| false, draws(1), 0.0);
            assert!(all.is_some());
        }
    }

    #[test]
    fn ties_are_spread() {
        let mut random = draws(7);
        let mut hits = [0u32; 3];
        for _ in 0..3_000 {
            hits[select(3, |_| prospect(load(0)), |_| false, &mut random, 0.0).unwrap()] += 1;
        }
        assert!(hits.iter().all(|h| (800..1_200).contains(h)), "{hits:?}");
    }

    /// Replicas with a pace each, requests that come one after the other at `every` seconds:
    /// how many each gets.
    fn shares(paces: &[f32], every: f32, requests: usize) -> Vec<usize> {
        let mut random = draws(3);
        let mut running: Vec<(usize, f32)> = Vec::new();
        let mut known: Vec<Option<Pace>> = vec![None; paces.len()];
        let mut got = vec![0; paces.len()];
        for number in 0..requests {
            let now = number as f32 * every;
            running.retain(|(_, end)| *end > now);
            let at = |i: usize| load(running.iter().filter(|(on, _)| *on == i).count() as u32);
            let chosen = select(
                paces.len(),
                |i| Prospect {
                    pace: known[i],
                    ..prospect(at(i))
                },
                |_| false,
                &mut random,
                now,
            );
            let Some(chosen) = chosen else { continue };
            let seconds = paces[chosen] * crate::estimate::crowd(at(chosen));
            let served = crate::estimate::Served {
                seconds,
                prompt_tokens: 0,
                completion_tokens: 1,
                load: at(chosen),
            };
            known[chosen] = Some(Pace::learn(known[chosen], served, now));
            running.push((chosen, now + seconds));
            got[chosen] += 1;
        }
        got
    }

    #[test]
    fn a_replica_ten_times_slower_gets_a_small_part_and_equal_ones_get_equal_parts() {
        let got = shares(&[0.1, 1.0], 0.05, 4_000);
        assert!(got[1] * 8 < got[0] && got[1] > 0, "{got:?}");
        let got = shares(&[0.1; 4], 0.01, 4_000);
        assert!(got.iter().all(|n| (800..1_200).contains(n)), "{got:?}");
        let mut paces = [0.1; 40];
        paces[7] = 1.0;
        let got = shares(&paces, 0.002, 40_000);
        assert!(got[7] * 4 < got[6], "{got:?}");
    }

    proptest! {
        #[test]
        fn a_full_or_excluded_candidate_is_never_picked(
            in_flight in proptest::collection::vec(0u32..12, 1..40),
            tried in proptest::collection::vec(any::<bool>(), 40),
            seed in 1u64..,
        ) {
            let look = |i: usize| prospect(load(in_flight[i]));
            let pick = select(in_flight.len(), look, |i| tried[i], draws(seed), 0.0);
            if let Some(i) = pick {
                prop_assert!(!load(in_flight[i]).is_full());
                prop_assert!(!tried[i]);
            }
        }
    }
}
