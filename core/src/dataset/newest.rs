//! Which records of a dataset are kept.

use std::collections::HashSet;

use super::DatasetRecord;

/// Returns the newest `keep` of `records`, the oldest first. Of several records of one decision only the
/// one that was written last is left, which has the latest feedback.
#[must_use]
pub fn newest(records: Vec<DatasetRecord>, keep: usize) -> Vec<DatasetRecord> {
    let mut decisions = HashSet::new();
    let last_first = records.into_iter().rev();
    let mut kept: Vec<_> = last_first
        .filter(|record| decisions.insert(record.decision.clone()))
        .collect();
    kept.reverse();
    // Stable: records of the same millisecond stay in the order in which they were written.
    kept.sort_by_key(|record| record.at);
    kept.drain(..kept.len().saturating_sub(keep));
    kept
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;
    use crate::dataset::Feedback;

    #[test]
    fn newest_records_are_left_and_the_last_of_each_decision() {
        let marked = record("c-1", 1).with_feedback(Feedback::Good(true));
        let records = vec![
            record("c-1", 1),
            record("c-3", 3),
            record("c-2", 2),
            marked.clone(),
        ];
        let all = newest(records.clone(), 10);
        assert_eq!(all, [marked, record("c-2", 2), record("c-3", 3)]);
        assert_eq!(newest(records, 1), [record("c-3", 3)]);
        assert_eq!(newest(Vec::new(), 1), []);
    }
}
