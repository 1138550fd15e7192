//! Joules from a power sensor, by integration over time.

/// Longest time between two readings that is integrated, in seconds. Over a longer gap the energy
/// would be a guess.
pub(super) const MAX_GAP: f64 = 60.0;

/// Integrates a power sensor over time by the trapezoid rule: the mean of two readings times the
/// time between them. Changes between two readings are not seen.
#[derive(Debug, Clone)]
pub(super) struct PowerIntegral {
    /// Highest plausible power in watts; higher values are taken for faults.
    max_watts: f64,
    /// Time in seconds and watts of the previous reading.
    last: Option<(f64, f64)>,
}

impl PowerIntegral {
    pub(super) fn new(max_watts: f64) -> Self {
        Self {
            max_watts,
            last: None,
        }
    }

    /// Returns the joules since the previous reading, 0 on the first. `None` if there is no valid
    /// reading now (the energy comes with the next), or if the previous one is older than
    /// [`MAX_GAP`] (the energy is lost).
    pub(super) fn read(&mut self, now: f64, watts: Option<f64>) -> Option<f64> {
        let watts = watts.filter(|watts| (0.0..=self.max_watts).contains(watts))?;
        let Some((last_time, last_watts)) = self.last.replace((now, watts)) else {
            return Some(0.0);
        };
        let seconds = (now - last_time).max(0.0);
        (seconds <= MAX_GAP).then_some((last_watts + watts) / 2.0 * seconds)
    }

    /// Forgets the previous reading: the next one counts as the first.
    pub(super) fn restart(&mut self) {
        self.last = None;
    }

    /// Whether the next reading will be the first.
    pub(super) fn is_empty(&self) -> bool {
        self.last.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_the_mean_of_two_readings_over_time() {
        let mut integral = PowerIntegral::new(100.0);
        assert_eq!(integral.read(1.0, Some(10.0)), Some(0.0));
        assert_eq!(integral.read(3.0, Some(20.0)), Some(30.0));
        assert_eq!(integral.read(3.0, Some(20.0)), Some(0.0));
    }

    #[test]
    fn a_missing_or_implausible_reading_is_bridged() {
        let mut integral = PowerIntegral::new(100.0);
        integral.read(0.0, Some(10.0));
        for implausible in [None, Some(-1.0), Some(1e12), Some(f64::NAN)] {
            assert_eq!(integral.read(1.0, implausible), None);
        }
        assert_eq!(integral.read(2.0, Some(10.0)), Some(20.0));
    }

    #[test]
    fn no_energy_is_counted_over_a_long_gap() {
        let mut integral = PowerIntegral::new(100.0);
        integral.read(0.0, Some(10.0));
        assert_eq!(integral.read(MAX_GAP + 0.1, Some(10.0)), None);
        assert_eq!(integral.read(MAX_GAP + 1.1, Some(10.0)), Some(10.0));
    }

    #[test]
    fn a_clock_that_goes_back_counts_nothing() {
        let mut integral = PowerIntegral::new(100.0);
        integral.read(10.0, Some(10.0));
        assert_eq!(integral.read(5.0, Some(10.0)), Some(0.0));
    }
}
