//! How many requests wait for a model, as other controllers learn it: roughly, and seldom.
//!
//! Each level that is published is a write to the store and a new view on every controller. When many
//! requests wait, exact numbers would be most of what the fleet does. Scaling needs to know whether
//! requests wait, and people whether few or many do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_core::ModelName;
use flotilla_dispatch::WaitingCounts;

/// How long fewer requests must have waited before a lower level is published.
const HOLD: Duration = Duration::from_secs(1);

/// The published levels of all models: the number of waiting requests, rounded down to a power of two.
/// A level rises at once and falls after [`HOLD`].
#[derive(Debug, Default)]
pub(crate) struct WaitingLevels {
    models: BTreeMap<ModelName, Level>,
}

#[derive(Debug)]
struct Level {
    published: u32,
    /// Since when the number has been below the level, and the highest level since then.
    lower: Option<(Instant, u32)>,
}

impl WaitingLevels {
    /// Follows the numbers of waiting requests at `now`.
    pub(crate) fn update(&mut self, counts: &WaitingCounts, now: Instant) {
        for (model, count) in counts {
            let level = self.models.entry(model.clone()).or_insert(Level {
                published: 0,
                lower: None,
            });
            level.update(power_of_two_below(*count), now);
        }
        for (model, level) in &mut self.models {
            if !counts.contains_key(model) {
                level.update(0, now);
            }
        }
        self.models.retain(|_, level| level.published > 0);
    }

    /// The level of each model that requests wait for.
    pub(crate) fn levels(&self) -> impl Iterator<Item = (&ModelName, u32)> {
        let models = self.models.iter();
        models.map(|(model, level)| (model, level.published))
    }

    /// When a level may fall next.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let lower = self.models.values().filter_map(|level| level.lower);
        lower.map(|(since, _)| since + HOLD).min()
    }
}

impl Level {
    fn update(&mut self, current: u32, now: Instant) {
        if current >= self.published {
            *self = Self {
                published: current,
                lower: None,
            };
            return;
        }
        let (since, highest) = self.lower.unwrap_or((now, current));
        let highest = highest.max(current);
        if now.saturating_duration_since(since) < HOLD {
            self.lower = Some((since, highest));
            return;
        }
        self.published = highest;
        self.lower = (current < highest).then_some((now, current));
    }
}

/// Rounds down to a power of two; 0 stays 0.
fn power_of_two_below(count: u32) -> u32 {
    count.checked_ilog2().map_or(0, |bits| 1 << bits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(count: u32) -> WaitingCounts {
        let model = ModelName::new("m").unwrap();
        let counts = (count > 0).then_some((model, count));
        counts.into_iter().collect()
    }

    fn level(levels: &WaitingLevels) -> u32 {
        levels.levels().map(|(_, level)| level).sum()
    }

    #[test]
    fn level_rises_at_once_and_falls_after_a_while() {
        let start = Instant::now();
        let mut levels = WaitingLevels::default();
        levels.update(&counts(1), start);
        assert_eq!((level(&levels), levels.next_deadline()), (1, None));
        levels.update(&counts(100), start);
        assert_eq!(level(&levels), 64);
        levels.update(&counts(0), start);
        assert_eq!(level(&levels), 64);
        assert_eq!(levels.next_deadline(), Some(start + HOLD));
        // One that came in between keeps the level above 0 for longer.
        levels.update(&counts(3), start + HOLD / 2);
        levels.update(&counts(0), start + HOLD);
        assert_eq!(level(&levels), 2);
        levels.update(&counts(0), start + HOLD * 2);
        assert_eq!((level(&levels), levels.next_deadline()), (0, None));
    }

    proptest! {
        #[test]
        fn level_is_0_exactly_when_nobody_has_waited_lately_and_changes_seldom(
            observed in prop::collection::vec((0_u32..300, 0_u64..400), 1..200),
        ) {
            let mut levels = WaitingLevels::default();
            let (start, mut now) = (Instant::now(), Instant::now());
            let (mut falls, mut before) = (0, 0);
            for (count, millis) in observed {
                now += Duration::from_millis(millis);
                levels.update(&counts(count), now);
                let after = level(&levels);
                prop_assert!(after >= power_of_two_below(count));
                prop_assert!(after.is_power_of_two() || after == 0);
                falls += u32::from(after < before);
                before = after;
            }
            let elapsed = now.saturating_duration_since(start);
            prop_assert!(f64::from(falls) <= elapsed.as_secs_f64() + 1.0);
            levels.update(&counts(0), now);
            levels.update(&counts(0), now + HOLD);
            levels.update(&counts(0), now + HOLD * 2);
            prop_assert_eq!(level(&levels), 0);
        }
    }
}
