//! Power of two choices: look at two random replicas, take the one that will answer sooner. Nearly
//! as balanced as looking at all, at a cost that does not grow with the fleet (Mitzenmacher, "The
//! Power of Two Choices in Randomized Load Balancing", 2001).

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
    /// Requests that it has, from here and from elsewhere.
    #[must_use]
    pub fn requests(self) -> u32 {
        self.in_flight.saturating_add(self.elsewhere)
    }

    /// Whether it computes fewer requests than it can.
    #[must_use]
    pub fn has_room(self) -> bool {
        self.requests() < self.concurrency
    }

    /// Whether one more request would be refused, as far as is known here: what it has from
    /// elsewhere may be gone by now, and if it is not, the replica says so.
    #[must_use]
    pub fn is_full(self) -> bool {
        self.in_flight >= self.capacity
    }
}

/// A candidate that could be looked at.
pub enum Look<P> {
    /// It can take the request.
    Able(P),
    /// It fails time after time: only where there is no other, as what fails everywhere is not the
    /// replicas' fault.
    LastResort(P),
    /// It cannot take it.
    Out,
}

/// Up to this many candidates all are looked at: cheaper than missing the only free one.
const LOOK_AT_ALL: usize = 8;

/// Draws before a large set counts as full.
const DRAWS: usize = 16;

/// Picks one of `0..candidates` and what was seen there.
///
/// `look` reads a candidate, `better` says whether the first one is to be preferred over the
/// second, and `random` yields a number in `0..n`. One that is `preferred` is looked at whatever
/// is drawn, and stays where another one is no better. `None` means that no candidate was found;
/// with many candidates that is a sample's verdict, not a proof.
pub fn select<P>(
    candidates: usize,
    preferred: Option<usize>,
    mut look: impl FnMut(usize) -> Look<P>,
    better: impl Fn(&P, &P) -> bool,
    mut random: impl FnMut(usize) -> usize,
) -> Option<(usize, P)> {
    if candidates == 0 {
        return None;
    }
    let mut best: Option<(usize, P)> = None;
    let mut last_resort: Option<(usize, P)> = None;
    // Whether the candidate can take the request; if so it is compared with the best so far.
    let mut consider = |index: usize| {
        let (seen, slot, able) = match look(index) {
            Look::Able(seen) => (seen, &mut best, true),
            Look::LastResort(seen) => (seen, &mut last_resort, false),
            Look::Out => return false,
        };
        if slot.as_ref().is_none_or(|(_, other)| better(&seen, other)) {
            *slot = Some((index, seen));
        }
        able
    };
    let mut able = preferred.map_or(0, |index| u32::from(consider(index)));
    if candidates <= LOOK_AT_ALL {
        // A random start breaks ties evenly.
        let start = random(candidates);
        for i in 0..candidates {
            let index = (start + i) % candidates;
            if Some(index) != preferred {
                consider(index);
            }
        }
    } else {
        for _ in 0..DRAWS {
            let index = random(candidates);
            if Some(index) != preferred {
                able += u32::from(consider(index));
            }
            if able >= 2 {
                break;
            }
        }
    }
    best.or(last_resort)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::{Pace, Served, Work, compare, crowd};
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

    fn able(load: Load) -> Look<Load> {
        if load.is_full() {
            Look::Out
        } else {
            Look::Able(load)
        }
    }

    fn less_busy(a: &Load, b: &Load) -> bool {
        let (a, b) = compare((*a, None), (*b, None), Work::default(), 0.0);
        a < b
    }

    /// The pick among replicas of unknown pace.
    fn pick(loads: &[Load], seed: u64) -> Option<usize> {
        let look = |i: usize| able(loads[i]);
        select(loads.len(), None, look, less_busy, draws(seed)).map(|(i, _)| i)
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
        assert!(load(3).has_room() && !busy_elsewhere.has_room());
    }

    #[test]
    fn none_is_picked_when_all_are_full() {
        assert_eq!(pick(&[load(8), load(8), load(8)], 1), None);
        assert_eq!(pick(&[], 1), None);
    }

    #[test]
    fn a_last_resort_is_taken_only_where_there_is_no_other() {
        for replicas in [3, 30] {
            let look = |broken: fn(usize) -> bool| {
                move |i: usize| {
                    if broken(i) {
                        Look::LastResort(load(0))
                    } else {
                        Look::Able(load(7))
                    }
                }
            };
            for seed in 1..20 {
                let picked = select(replicas, None, look(|i| i == 1), less_busy, draws(seed));
                assert_ne!(picked.unwrap().0, 1);
            }
            let all = select(replicas, None, look(|_| true), less_busy, draws(1));
            assert!(all.is_some());
        }
    }

    #[test]
    fn a_preferred_one_is_looked_at_and_stays_unless_another_is_better() {
        for replicas in [4, 40] {
            for seed in 1..20 {
                let look = |_| Look::Able(load(2));
                let picked = select(replicas, Some(3), look, less_busy, draws(seed));
                assert_eq!(picked.unwrap().0, 3);
                let look = |i| Look::Able(load(if i == 3 { 7 } else { 0 }));
                let picked = select(replicas, Some(3), look, less_busy, draws(seed));
                assert_ne!(picked.unwrap().0, 3);
            }
        }
    }

    #[test]
    fn ties_are_spread() {
        let mut random = draws(7);
        let mut hits = [0u32; 3];
        for _ in 0..3_000 {
            let look = |_| Look::Able(load(0));
            hits[select(3, None, look, less_busy, &mut random).unwrap().0] += 1;
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
        let work = Work {
            prompt_bytes: 10,
            max_tokens: None,
        };
        for number in 0..requests {
            let now = number as f32 * every;
            running.retain(|(_, end)| *end > now);
            let at = |i: usize| load(running.iter().filter(|(on, _)| *on == i).count() as u32);
            let picked = select(
                paces.len(),
                None,
                |i| match able(at(i)) {
                    Look::Able(load) => Look::Able((load, known[i])),
                    _ => Look::Out,
                },
                |a: &(Load, Option<Pace>), b| {
                    let (a, b) = compare(*a, *b, work, now);
                    a < b
                },
                &mut random,
            );
            let Some((chosen, (load, _))) = picked else {
                continue;
            };
            let seconds = paces[chosen] * crowd(load);
            let served = Served {
                prompt_bytes: 10,
                prompt_tokens: 0,
                completion_tokens: 1,
                seconds,
                computed: None,
                load,
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
        fn what_cannot_take_it_is_never_picked(
            in_flight in proptest::collection::vec(0u32..12, 1..40),
            preferred in proptest::option::of(0usize..40),
            seed in 1u64..,
        ) {
            let preferred = preferred.filter(|i| *i < in_flight.len());
            let look = |i: usize| able(load(in_flight[i]));
            let pick = select(in_flight.len(), preferred, look, less_busy, draws(seed));
            if let Some((i, _)) = pick {
                prop_assert!(in_flight[i] < 8);
            } else if in_flight.len() <= LOOK_AT_ALL {
                prop_assert!(in_flight.iter().all(|n| *n >= 8));
            }
        }
    }
}
