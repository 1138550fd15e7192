//! Whose turn a step is: it computes the sequences of one adapter, or of the model without one.

/// Identifies an adapter among all that a model ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AdapterId(pub(super) u64);

/// Returns whose turn it is after the turn of `last`, where sequences of `waiting` have tokens to compute: the next
/// one in the order of the ids, and after the last of them the first. The model without an adapter is `None`, and
/// comes first.
pub(super) fn next_turn(
    last: Option<AdapterId>,
    waiting: impl Iterator<Item = Option<AdapterId>> + Clone,
) -> Option<Option<AdapterId>> {
    let later = waiting.clone().filter(|adapter| *adapter > last).min();
    later.or_else(|| waiting.min())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turn(last: Option<u64>, waiting: &[Option<u64>]) -> Option<Option<u64>> {
        let waiting = waiting.iter().map(|id| id.map(AdapterId));
        next_turn(last.map(AdapterId), waiting).map(|turn| turn.map(|id| id.0))
    }

    #[test]
    fn turns_go_round() {
        let waiting = [Some(3), None, Some(1), Some(3)];
        assert_eq!(turn(None, &waiting), Some(Some(1)));
        assert_eq!(turn(Some(1), &waiting), Some(Some(3)));
        assert_eq!(turn(Some(3), &waiting), Some(None));
        assert_eq!(turn(Some(3), &[Some(3)]), Some(Some(3)));
        assert_eq!(turn(Some(3), &[]), None);
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_one_turn_of_each_other(
            waiting in prop::collection::vec(prop::option::of(1_u64..20), 1..20),
            last in prop::option::of(1_u64..20),
        ) {
            let distinct: std::collections::BTreeSet<_> = waiting.iter().copied().collect();
            let mut turns = std::collections::BTreeSet::new();
            let mut last = last;
            for _ in 0..distinct.len() {
                last = turn(last, &waiting).unwrap();
                turns.insert(last);
            }
            prop_assert_eq!(turns, distinct);
        }
    }
}
