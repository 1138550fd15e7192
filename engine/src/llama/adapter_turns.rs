//! Whose turn a step is: it computes the sequences of one adapter, or of the model without one.

use std::time::Duration;

/// How long a turn lasts after its first step while others wait. In the first step llama.cpp plans its computations
/// anew, which takes about as long as two tokens of a small model.
const TURN_TIME: Duration = Duration::from_millis(80);

/// Identifies an adapter among all that a model ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AdapterId(pub(super) u64);

/// The turns of a model's adapters and of the model without one, which is `None`.
#[derive(Debug, Default)]
pub(super) struct AdapterTurns {
    turn: Option<AdapterId>,
    /// How long it has been its turn since the end of the first step.
    used: Duration,
}

impl AdapterTurns {
    /// Returns whose turn the next step is, where sequences of `waiting` have tokens to compute. Turns go round in the
    /// order of the ids. `None` if nobody waits.
    pub(super) fn next(
        &mut self,
        waiting: impl Iterator<Item = Option<AdapterId>> + Clone,
    ) -> Option<Option<AdapterId>> {
        let stays = self.used < TURN_TIME && waiting.clone().any(|adapter| adapter == self.turn);
        if !stays {
            let later = waiting.clone().filter(|adapter| *adapter > self.turn).min();
            self.turn = later.or_else(|| waiting.min())?;
            self.used = Duration::ZERO;
        }
        Some(self.turn)
    }

    /// Takes note of how long a step took that was not the first one of its turn.
    pub(super) fn record(&mut self, time: Duration) {
        self.used += time;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn next(turns: &mut AdapterTurns, waiting: &[Option<u64>]) -> Option<Option<u64>> {
        let waiting = waiting.iter().map(|id| id.map(AdapterId));
        turns.next(waiting).map(|turn| turn.map(|id| id.0))
    }

    #[test]
    fn turns_go_round_and_last_for_a_while() {
        let mut turns = AdapterTurns::default();
        let waiting = [Some(3), None, Some(1), Some(3)];
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(next(&mut turns, &waiting).unwrap());
            turns.record(TURN_TIME / 2);
        }
        assert_eq!(seen, [None, None, Some(1), Some(1), Some(3), Some(3)]);
        turns.record(TURN_TIME);
        assert_eq!(next(&mut turns, &waiting), Some(None));
        // Whoever has nothing to compute loses its turn at once.
        assert_eq!(next(&mut turns, &[Some(3)]), Some(Some(3)));
        turns.record(TURN_TIME * 9);
        assert_eq!(next(&mut turns, &[Some(3)]), Some(Some(3)));
        assert_eq!(next(&mut turns, &[]), None);
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_one_turn_of_each_other(
            waiting in prop::collection::vec(prop::option::of(1_u64..20), 1..20),
            first in prop::option::of(1_u64..20),
        ) {
            let distinct: std::collections::BTreeSet<_> = waiting.iter().copied().collect();
            let mut turns = AdapterTurns { turn: first.map(AdapterId), used: TURN_TIME };
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..distinct.len() {
                seen.insert(next(&mut turns, &waiting).unwrap());
                turns.record(TURN_TIME);
            }
            prop_assert_eq!(seen, distinct);
        }
    }
}
