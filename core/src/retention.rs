//! Which files that no model needs are deleted, and when. Pure decisions over plain data.
//!
//! A file is kept for a while after the last model that needs it has left: the model may come back, or it
//! left by mistake. The time is counted in steps while the process runs and not from a date, since the clock
//! of a machine may be wrong by years until it is set.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A file, or the folder of a model, that no model needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnneededEntry {
    /// Its name, such as `blobs/<sha256>`.
    pub name: String,
    /// The space that is freed when it is deleted, in bytes.
    pub bytes: u64,
}

/// For how long each entry has not been needed. Stored across restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnneededTimes {
    /// The times in seconds, by name.
    seconds: BTreeMap<String, u64>,
    /// The part of a second that counts next time.
    #[serde(skip)]
    rest: Duration,
}

impl UnneededTimes {
    /// How often the times are stored while no entry comes or goes. A restart loses at most this much of
    /// them, and files are kept for longer by it.
    pub const STORE_INTERVAL: Duration = Duration::from_secs(3_600);

    /// Adds `elapsed` to the time of each entry that is still not needed, and starts at 0 for new ones.
    /// Returns whether the entries differ from those before.
    pub fn advance(&mut self, unneeded: &[UnneededEntry], elapsed: Duration) -> bool {
        let elapsed = elapsed.saturating_add(self.rest);
        self.rest = Duration::from_nanos(elapsed.subsec_nanos().into());
        let before = std::mem::take(&mut self.seconds);
        let times = unneeded.iter().map(|entry| {
            let time = before.get(&entry.name);
            let time = time.map_or(0, |time| time.saturating_add(elapsed.as_secs()));
            (entry.name.clone(), time)
        });
        self.seconds = times.collect();
        !self.seconds.keys().eq(before.keys())
    }

    /// Returns the entries to delete: those that have not been needed for `retention`, and the longest
    /// unneeded ones until `needed_bytes` are freed, if all together have as many, and until
    /// `excess_bytes` are freed in any case. Folders come before the files that they link to.
    #[must_use]
    pub fn expired<'a>(
        &self,
        unneeded: &'a [UnneededEntry],
        retention: Duration,
        needed_bytes: u64,
        excess_bytes: u64,
    ) -> Vec<&'a UnneededEntry> {
        let total = unneeded.iter().map(|entry| entry.bytes).sum::<u64>();
        let to_free = match needed_bytes > total {
            // What needs the space fails anyway.
            true => excess_bytes,
            false => needed_bytes.max(excess_bytes),
        };
        let age = |entry: &UnneededEntry| self.seconds.get(&entry.name).copied().unwrap_or(0);
        let mut oldest_first: Vec<&UnneededEntry> = unneeded.iter().collect();
        oldest_first.sort_by_key(|entry| {
            let is_file = !entry.name.starts_with("models/");
            (std::cmp::Reverse(age(entry)), is_file, &entry.name)
        });
        let mut freed = 0;
        oldest_first
            .into_iter()
            .filter(|entry| {
                let is_due = age(entry) >= retention.as_secs() || freed < to_free;
                if is_due {
                    freed += entry.bytes;
                }
                is_due
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(name: &str, bytes: u64) -> UnneededEntry {
        UnneededEntry {
            name: name.into(),
            bytes,
        }
    }

    const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);
    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn names(entries: &[&UnneededEntry]) -> Vec<String> {
        entries.iter().map(|entry| entry.name.clone()).collect()
    }

    #[test]
    fn a_file_is_deleted_after_the_retention_and_not_before() {
        let file = [entry("blobs/a", 5)];
        let mut times = UnneededTimes::default();
        assert!(times.advance(&file, DAY));
        for _ in 0..6 {
            assert!(!times.advance(&file, DAY));
        }
        assert!(times.expired(&file, WEEK, 0, 0).is_empty());
        times.advance(&file, DAY);
        assert_eq!(names(&times.expired(&file, WEEK, 0, 0)), ["blobs/a"]);
        // Needed again in between, it starts anew.
        times.advance(&[], DAY);
        times.advance(&file, DAY);
        assert!(times.expired(&file, WEEK, 0, 0).is_empty());
    }

    #[test]
    fn parts_of_seconds_are_not_lost() {
        let file = [entry("blobs/a", 5)];
        let mut times = UnneededTimes::default();
        times.advance(&file, Duration::ZERO);
        for _ in 0..4 {
            times.advance(&file, Duration::from_millis(750));
        }
        let expired = |seconds| times.expired(&file, Duration::from_secs(seconds), 0, 0);
        assert_eq!((expired(3).len(), expired(4).len()), (1, 0));
    }

    #[test]
    fn under_pressure_the_oldest_goes_first_and_no_more_than_needed() {
        let old = [entry("models/a", 0), entry("blobs/a", 5)];
        let mut all = old.to_vec();
        all.extend([entry("blobs/b", 5), entry("models/b", 0)]);
        let mut times = UnneededTimes::default();
        times.advance(&old, DAY);
        times.advance(&all, DAY);
        assert_eq!(
            names(&times.expired(&all, WEEK, 4, 0)),
            ["models/a", "blobs/a"]
        );
        assert_eq!(times.expired(&all, WEEK, 6, 4).len(), 4);
        assert_eq!(times.expired(&all, WEEK, 10, 0).len(), 4);
        // Less than is needed helps nobody; less than exceeds a budget does.
        assert!(times.expired(&all, WEEK, 11, 0).is_empty());
        assert_eq!(times.expired(&all, WEEK, 11, 4).len(), 2);
        assert_eq!(times.expired(&all, WEEK, 0, 99).len(), 4);
    }

    proptest! {
        #[test]
        fn enough_is_freed_if_there_is_enough(
            sizes in prop::collection::vec(0..100_u64, 0..12), needed in 0..800_u64, excess in 0..800_u64
        ) {
            let entries: Vec<_> = sizes.iter().enumerate().map(|(i, size)| entry(&format!("blobs/{i}"), *size)).collect();
            let mut times = UnneededTimes::default();
            times.advance(&entries, DAY);
            let expired = times.expired(&entries, WEEK, needed, excess);
            let freed: u64 = expired.iter().map(|entry| entry.bytes).sum();
            let total: u64 = sizes.iter().sum();
            let needed = if needed > total { 0 } else { needed };
            prop_assert!(freed >= needed.max(excess.min(total)));
            prop_assert!(needed.max(excess) > 0 || freed == 0);
        }
    }
}
