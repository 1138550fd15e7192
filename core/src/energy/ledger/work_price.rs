//! The joules that a second of work takes.

/// Seconds of work after which earlier windows weigh 1/e in the price: a single window may be
/// shorter than the resolution of a meter. Our own choice.
const MEMORY_SECONDS: f64 = 5.0;
/// Seconds of work that the initial guess of the price weighs. Our own choice.
const GUESS_WEIGHT_SECONDS: f64 = 0.25;

/// The joules per second of work in the closed windows, as a decaying mean.
#[derive(Debug, Clone, Copy)]
pub(super) struct WorkPrice {
    joules: f64,
    work: f64,
    /// Seconds of work that the initial guess still weighs.
    guess: f64,
}

impl Default for WorkPrice {
    fn default() -> Self {
        Self {
            joules: 0.0,
            work: 0.0,
            guess: GUESS_WEIGHT_SECONDS,
        }
    }
}

impl WorkPrice {
    /// Learns from a window in which this much work took so many joules.
    pub(super) fn learn(&mut self, joules: f64, work: f64) {
        let keeps = (-work / MEMORY_SECONDS).exp();
        self.joules = self.joules * keeps + joules;
        self.work = self.work * keeps + work;
        self.guess *= keeps;
    }

    /// The price, with a guess of it that counts until windows have shown a better one.
    pub(super) fn per_second(&self, guess: f64) -> f64 {
        (self.joules + guess.max(0.0) * self.guess) / (self.work + self.guess)
    }
}
