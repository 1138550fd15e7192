//! The joules that a second of work takes.

/// Seconds of work after which earlier windows weigh 1/e in the price: a single window may be
/// shorter than the resolution of a meter. Our own choice.
const MEMORY_SECONDS: f64 = 5.0;
/// Seconds of work that the initial guess of the price weighs. Our own choice.
const GUESS_WEIGHT_SECONDS: f64 = 0.25;

/// The joules per second of work in the closed windows, as a decaying mean.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WorkPrice {
    joules: f64,
    work: f64,
    /// How much of the guess is forgotten.
    learnt: f64,
}

impl WorkPrice {
    /// Learns from a window in which this much work took so many joules.
    pub(super) fn learn(&mut self, joules: f64, work: f64) {
        let keeps = (-work / MEMORY_SECONDS).exp();
        self.joules = self.joules * keeps + joules;
        self.work = self.work * keeps + work;
        self.learnt = 1.0 - (1.0 - self.learnt) * keeps;
    }

    /// The price, with a guess of it that counts until windows have shown a better one. Without either it is 0.
    pub(super) fn per_second(&self, guess: Option<f64>) -> f64 {
        let weight = GUESS_WEIGHT_SECONDS * (1.0 - self.learnt);
        let (guess, weight) = guess.map_or((0.0, 0.0), |guess| (guess.max(0.0), weight));
        let work = self.work + weight;
        match work > 0.0 {
            true => (self.joules + guess * weight) / work,
            false => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guess_counts_until_windows_have_shown_a_better_price() {
        let mut price = WorkPrice::default();
        assert_eq!(price.per_second(None), 0.0);
        assert_eq!(price.per_second(Some(40.0)), 40.0);
        price.learn(25.0, 0.1);
        assert!((price.per_second(None) - 250.0).abs() < 1e-9);
        let guessed = price.per_second(Some(40.0));
        assert!((40.0..250.0).contains(&guessed), "{guessed}");
        for _ in 0..100 {
            price.learn(25.0, 0.1);
        }
        assert!((price.per_second(Some(40.0)) - 250.0).abs() < 10.0);
    }
}
