//! Joules from an energy counter that wraps around and may be reset.

/// Seconds by which a counter may lag behind the clock; energy counted that late is accepted.
const LAG: f64 = 1.0;

/// An energy counter that grows, wraps around to zero past its range, and may be reset.
///
/// A value lower than the previous one is a wrap-around if the energy it implies could have been
/// drawn since then. Otherwise it is a reset: the driver was reloaded or the machine slept. At most
/// one wrap-around is assumed between two reads, so a counter must be read more often than it wraps
/// around (RAPL at 500 W with counts of 15.3 uJ: every 130 s).
#[derive(Debug, Clone)]
pub(super) struct EnergyCounter {
    /// Joules per count.
    joules_per_count: f64,
    /// The highest value in counts, if the counter wraps around.
    range: Option<u64>,
    /// Highest plausible power in watts; higher values are taken for faults.
    max_watts: f64,
    /// Time in seconds and value of the previous read.
    last: Option<(f64, u64)>,
}

impl EnergyCounter {
    pub(super) fn new(joules_per_count: f64, range: Option<u64>, max_watts: f64) -> Self {
        Self {
            joules_per_count,
            range,
            max_watts,
            last: None,
        }
    }

    /// Returns the joules since the previous read, 0 on the first. `None` if there is no valid
    /// value now (the energy comes with the next read), or after a reset or an implausible jump
    /// (the energy is lost).
    pub(super) fn read(&mut self, now: f64, value: Option<u64>) -> Option<f64> {
        let value = value.filter(|value| self.range.is_none_or(|range| *value <= range))?;
        let Some((last_time, last_value)) = self.last.replace((now, value)) else {
            return Some(0.0);
        };
        let counts = match (value.checked_sub(last_value), self.range) {
            (Some(counts), _) => counts,
            (None, Some(range)) => (range - last_value).saturating_add(value),
            (None, None) => return None,
        };
        let joules = counts as f64 * self.joules_per_count;
        (joules <= self.max_watts * ((now - last_time).max(0.0) + LAG)).then_some(joules)
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
    fn the_first_read_counts_nothing() {
        assert_eq!(counter().read(5.0, Some(9_000_000)), Some(0.0));
    }

    #[test]
    fn energy_of_a_failed_read_comes_with_the_next() {
        let mut counter = counter();
        counter.read(0.0, Some(1_000_000));
        assert_eq!(counter.read(1.0, None), None);
        assert_eq!(counter.read(2.0, Some(31_000_000)), Some(30.0));
    }

    #[test]
    fn a_reset_is_not_a_wrap_around() {
        let mut counter = counter();
        counter.read(0.0, Some(100_000_000_000));
        assert_eq!(counter.read(1.0, Some(2_000_000)), None);
        assert_eq!(counter.read(2.0, Some(5_000_000)), Some(3.0));
    }

    #[test]
    fn an_implausible_jump_counts_nothing() {
        let mut counter = EnergyCounter::new(1e-3, None, 2000.0);
        counter.read(0.0, Some(1_000));
        assert_eq!(counter.read(1.0, Some(u64::MAX)), None);
        assert_eq!(counter.read(2.0, Some(3_000)), None);
        assert_eq!(counter.read(3.0, Some(103_000)), Some(100.0));
    }

    #[test]
    fn a_value_past_the_range_is_ignored() {
        let mut counter = counter();
        counter.read(0.0, Some(1_000_000));
        assert_eq!(counter.read(1.0, Some(u64::MAX)), None);
        assert_eq!(counter.read(2.0, Some(2_000_000)), Some(1.0));
    }

    proptest! {
        #[test]
        fn reads_add_up_to_the_energy_drawn(
            range in 1_000_000u64..u64::from(u32::MAX) * 61,
            start: u64,
            parts in proptest::collection::vec(0.0f64..1.0, 1..40),
        ) {
            let mut value = start % range;
            let mut counter = EnergyCounter::new(1e-6, Some(range), 1000.0);
            let (mut now, mut drawn, mut read) = (0.0, 0.0, 0.0);
            counter.read(now, Some(value));
            for part in parts {
                // Less than one wrap-around, at the highest plausible power.
                let more = ((range as f64 * part) as u64).min(range - 1);
                value = (value + more) % range;
                drawn += more as f64 * 1e-6;
                now += more as f64 * 1e-6 / 1000.0;
                let joules = counter.read(now, Some(value));
                prop_assert!(joules.is_some());
                read += joules.unwrap_or_default();
            }
            prop_assert!((drawn - read).abs() <= drawn * 1e-9 + 1e-9, "{drawn} {read}");
        }

        #[test]
        fn no_sequence_of_values_exceeds_the_highest_power(
            values in proptest::collection::vec(any::<Option<u64>>(), 1..40),
            step in 0.0f64..100.0,
        ) {
            prop_assume!(step.is_finite());
            let mut counter = EnergyCounter::new(1e-6, Some(1 << 38), 1000.0);
            let mut last = 0.0;
            for (index, value) in values.into_iter().enumerate() {
                let now = index as f64 * step;
                if let Some(joules) = counter.read(now, value) {
                    prop_assert!((0.0..=1000.0 * (now - last + LAG) + 1e-6).contains(&joules));
                    last = now;
                }
            }
        }
    }
}
