//! What a power sensor has seen between two reads, in joules.

/// Seconds between two readings of a power sensor beyond which nothing is said of the energy between:
/// what was drawn meanwhile would be a guess.
pub(super) const LONGEST_GAP: f64 = 60.0;

/// The integral of a power sensor over time by the trapezoid rule: the mean of two readings, times the
/// time between them. What the power did between two readings is not seen.
#[derive(Debug, Clone)]
pub(super) struct PowerIntegral {
    /// No channel of this sort draws more, in watts: what says so is a fault.
    most: f64,
    /// When it was last read, and the watts then.
    last: Option<(f64, f64)>,
}

impl PowerIntegral {
    pub(super) fn new(most: f64) -> Self {
        Self { most, last: None }
    }

    /// Joules since the reading before; 0 at the first. None where there is no reading now (then they
    /// come with the next), or where the one before is longer ago than [`LONGEST_GAP`].
    pub(super) fn read(&mut self, now: f64, watts: Option<f64>) -> Option<f64> {
        let watts = watts.filter(|watts| (0.0..=self.most).contains(watts))?;
        let Some((then, before)) = self.last.replace((now, watts)) else {
            return Some(0.0);
        };
        let seconds = (now - then).max(0.0);
        (seconds <= LONGEST_GAP).then_some((before + watts) / 2.0 * seconds)
    }

    /// Starts anew: what comes next is a first reading.
    pub(super) fn restart(&mut self) {
        self.last = None;
    }

    /// Whether the next reading would be the first.
    pub(super) fn is_new(&self) -> bool {
        self.last.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_count_with_their_mean() {
        let mut integral = PowerIntegral::new(100.0);
        assert_eq!(integral.read(1.0, Some(10.0)), Some(0.0));
        assert_eq!(integral.read(3.0, Some(20.0)), Some(30.0));
        assert_eq!(integral.read(3.0, Some(20.0)), Some(0.0));
    }

    #[test]
    fn a_missing_or_absurd_reading_is_bridged() {
        let mut integral = PowerIntegral::new(100.0);
        integral.read(0.0, Some(10.0));
        for absurd in [None, Some(-1.0), Some(1e12), Some(f64::NAN)] {
            assert_eq!(integral.read(1.0, absurd), None);
        }
        assert_eq!(integral.read(2.0, Some(10.0)), Some(20.0));
    }

    #[test]
    fn nothing_is_invented_for_a_long_gap() {
        let mut integral = PowerIntegral::new(100.0);
        integral.read(0.0, Some(10.0));
        assert_eq!(integral.read(LONGEST_GAP + 0.1, Some(10.0)), None);
        assert_eq!(integral.read(LONGEST_GAP + 1.1, Some(10.0)), Some(10.0));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut integral = PowerIntegral::new(100.0);
        integral.read(10.0, Some(10.0));
        assert_eq!(integral.read(5.0, Some(10.0)), Some(0.0));
    }
}
