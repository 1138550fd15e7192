//! The power that a meter channel shows without requests.

/// The least weight of each second without work in the running mean, so that the line follows other programs on the
/// node. Our own choice.
const LEAST_WEIGHT_PER_SECOND: f64 = 0.05;

/// The longest time that a meter may lag behind, in seconds of idle power: longer than the fuel gauge
/// of a battery does. Our own estimate.
const MAX_LAG_SECONDS: f64 = 30.0;

/// The idle power of one channel, learnt from windows without work.
///
/// It is the mean of the first of them, and then a running mean. What a model takes without requests (a GPU draws 50 W
/// more as soon as a process has a context on it) is learnt anew when a model comes or goes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct IdleLine {
    /// The power in watts. `None`: not known yet.
    watts: Option<f64>,
    /// Seconds that the mean is of. 0: the power is a guess, or one of before a model came or went.
    seconds: f64,
    /// Joules by which windows with work were below the line, to be deducted from later windows.
    lacks: f64,
}

impl IdleLine {
    /// A line that stays at a guess in watts until it is learnt.
    pub(super) fn guessed(watts: f64) -> Self {
        Self {
            watts: Some(watts.max(0.0)),
            ..Self::default()
        }
    }

    /// The power in watts, 0 if it is not known.
    pub(super) fn watts(&self) -> f64 {
        self.watts.unwrap_or(0.0)
    }

    /// Learns from a window without work.
    pub(super) fn learn(&mut self, joules: f64, seconds: f64) {
        self.lacks = 0.0;
        let least = (LEAST_WEIGHT_PER_SECOND * seconds).min(1.0);
        let weight = (seconds / (self.seconds + seconds)).max(least);
        let (shown, before) = (joules / seconds, self.watts());
        self.watts = Some(before + weight * (shown - before));
        self.seconds += seconds;
    }

    /// Learns from a window in which models were loaded: the node draws less without them, so that this is the best
    /// guess only while nothing else is known.
    pub(super) fn learn_while_loading(&mut self, joules: f64, seconds: f64) {
        self.lacks = 0.0;
        if self.seconds == 0.0 {
            let shown = joules / seconds;
            self.watts = Some(self.watts.map_or(shown, |watts| watts.min(shown)));
        }
    }

    /// Makes the next window without work replace the line.
    pub(super) fn restart(&mut self) {
        self.seconds = 0.0;
        self.lacks = 0.0;
    }

    /// The joules of a window above the line. A meter may stand still for some windows and catch up in a
    /// later one: what the earlier windows lacked is deducted first.
    pub(super) fn above(&mut self, joules: f64, seconds: f64) -> f64 {
        let above = joules - self.watts() * seconds - self.lacks;
        self.lacks = (-above).clamp(0.0, self.watts() * MAX_LAG_SECONDS);
        above.max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_quiet_seconds_replace_a_guess_and_later_ones_move_it() {
        let mut line = IdleLine::guessed(12.0);
        line.learn(71.0, 1.0);
        assert!((line.watts() - 71.0).abs() < 1e-9);
        line.learn(73.0, 1.0);
        assert!((line.watts() - 72.0).abs() < 1e-9);
        for _ in 0..200 {
            line.learn(80.0, 1.0);
        }
        assert!((line.watts() - 80.0).abs() < 0.01);
    }

    #[test]
    fn model_that_comes_or_goes_makes_the_line_new() {
        let mut line = IdleLine::default();
        for _ in 0..100 {
            line.learn(71.0, 1.0);
        }
        line.learn_while_loading(200.0, 1.0);
        assert!((line.watts() - 71.0).abs() < 1e-9);
        line.restart();
        line.learn_while_loading(200.0, 1.0);
        assert!((line.watts() - 71.0).abs() < 1e-9, "the best that is known");
        line.learn(122.0, 1.0);
        assert!((line.watts() - 122.0).abs() < 1e-9);
    }

    #[test]
    fn lowest_power_while_models_are_loaded_is_better_than_none() {
        let mut line = IdleLine::default();
        for watts in [150.0, 90.0, 120.0] {
            line.learn_while_loading(watts, 1.0);
        }
        assert!((line.watts() - 90.0).abs() < 1e-9);
    }

    #[test]
    fn meter_that_stands_still_catches_up() {
        let mut line = IdleLine::guessed(6.0);
        let joules = [0.0, 0.0, 30.0].map(|joules| line.above(joules, 1.0));
        assert_eq!(joules, [0.0, 0.0, 12.0]);
    }
}
