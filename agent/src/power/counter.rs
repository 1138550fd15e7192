//! What an energy counter has counted between two reads.

/// Seconds by which a counter may lag behind the clock: energy that is counted late still belongs.
const LAG: f64 = 1.0;

/// A counter of energy that only grows, goes back to zero past its range, and may be reset.
///
/// A value below the one before is a wrap-around where the energy that this implies could have been
/// drawn in the time between, and else a reset: the driver was loaded anew or the machine slept. At
/// most one wrap-around is assumed between two reads, so a counter must be read more often than it
/// wraps (RAPL at 500 W: every 130 s where it counts in 15.3 uJ).
#[derive(Debug, Clone)]
pub(super) struct EnergyCounter {
    /// Joules of one count.
    unit: f64,
    /// The highest value in counts, where the counter has one.
    range: Option<u64>,
    /// No channel of this sort draws more, in watts: what says so is a fault.
    most: f64,
    /// When it was last read, and what it said.
    last: Option<(f64, u64)>,
}

impl EnergyCounter {
    pub(super) fn new(unit: f64, range: Option<u64>, most: f64) -> Self {
        Self {
            unit,
            range,
            most,
            last: None,
        }
    }

    /// Joules since the read before; 0 at the first. None where they cannot be told: no value now (then
    /// they come with the next), or after a reset or a jump (then they are lost).
    pub(super) fn read(&mut self, now: f64, value: Option<u64>) -> Option<f64> {
        let value = value.filter(|value| self.range.is_none_or(|range| *value <= range))?;
        let Some((then, before)) = self.last.replace((now, value)) else {
            return Some(0.0);
        };
        let counts = match (value.checked_sub(before), self.range) {
            (Some(counts), _) => counts,
            (None, Some(range)) => (range - before).saturating_add(value),
            (None, None) => return None,
        };
        let joules = counts as f64 * self.unit;
        (joules <= self.most * ((now - then).max(0.0) + LAG)).then_some(joules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, prop_assume, proptest};

    fn counter() -> EnergyCounter {
        EnergyCounter::new(1e-6, Some(262_143_328_850), 1000.0)
    }

    #[test]
    fn a_first_read_counts_nothing() {
        assert_eq!(counter().read(5.0, Some(9_000_000)), Some(0.0));
    }

    #[test]
    fn what_could_not_be_read_comes_with_the_next() {
        let mut counter = counter();
        counter.read(0.0, Some(1_000_000));
        assert_eq!(counter.read(1.0, None), None);
        assert_eq!(counter.read(2.0, Some(31_000_000)), Some(30.0));
    }

    #[test]
    fn a_reset_is_no_wrap_around() {
        let mut counter = counter();
        counter.read(0.0, Some(100_000_000_000));
        assert_eq!(counter.read(1.0, Some(2_000_000)), None);
        assert_eq!(counter.read(2.0, Some(5_000_000)), Some(3.0));
    }

    #[test]
    fn a_jump_is_no_energy() {
        let mut counter = EnergyCounter::new(1e-3, None, 2000.0);
        counter.read(0.0, Some(1_000));
        assert_eq!(counter.read(1.0, Some(u64::MAX)), None);
        assert_eq!(counter.read(2.0, Some(3_000)), None);
        assert_eq!(counter.read(3.0, Some(103_000)), Some(100.0));
    }

    #[test]
    fn a_value_past_the_range_is_passed_over() {
        let mut counter = counter();
        counter.read(0.0, Some(1_000_000));
        assert_eq!(counter.read(1.0, Some(u64::MAX)), None);
        assert_eq!(counter.read(2.0, Some(2_000_000)), Some(1.0));
    }

    proptest! {
        #[test]
        fn reads_add_up_to_the_true_energy(
            range in 1_000_000u64..u64::from(u32::MAX) * 61,
            start: u64,
            parts in proptest::collection::vec(0.0f64..1.0, 1..40),
        ) {
            let mut value = start % range;
            let mut counter = EnergyCounter::new(1e-6, Some(range), 1000.0);
            let (mut now, mut truth, mut read) = (0.0, 0.0, 0.0);
            counter.read(now, Some(value));
            for part in parts {
                // Less than the range, and as fast as the channel may draw.
                let more = ((range as f64 * part) as u64).min(range - 1);
                value = (value + more) % range;
                truth += more as f64 * 1e-6;
                now += more as f64 * 1e-6 / 1000.0;
                let joules = counter.read(now, Some(value));
                prop_assert!(joules.is_some());
                read += joules.unwrap_or_default();
            }
            prop_assert!((truth - read).abs() <= truth * 1e-9 + 1e-9, "{truth} {read}");
        }

        #[test]
        fn no_sequence_gives_more_than_could_be_drawn(
            values in proptest::collection::vec(any::<Option<u64>>(), 1..40),
            step in 0.0f64..100.0,
        ) {
            prop_assume!(step.is_finite());
            let mut counter = EnergyCounter::new(1e-6, Some(1 << 38), 1000.0);
            let mut last = 0.0;
            for (turn, value) in values.into_iter().enumerate() {
                let now = turn as f64 * step;
                if let Some(joules) = counter.read(now, value) {
                    prop_assert!((0.0..=1000.0 * (now - last + LAG) + 1e-6).contains(&joules));
                    last = now;
                }
            }
        }
    }
}
