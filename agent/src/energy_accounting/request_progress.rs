//! The progress of one request, measured as seconds of work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_engine::ComputeLocation;

/// Weight of the newest answer in the moving average of the seconds per token.
const TOKEN_TIME_WEIGHT: f32 = 0.2;

/// Where a model computes, and how fast it writes tokens.
#[derive(Debug)]
pub struct ModelRate {
    pub(super) location: ComputeLocation,
    /// Number of concurrent requests at which the model uses the whole machine.
    pub(super) concurrency: u32,
    /// The process that computes the model's requests and nothing else. `None`: there is none.
    pub(super) process: Option<u32>,
    /// Seconds per output token as the bits of an `f32`; 0 until a first answer is complete.
    seconds_per_token: AtomicU32,
}

impl ModelRate {
    /// Creates the rate of a model that has not answered yet. `process` is the id of the process that
    /// computes its requests and nothing else, if there is one.
    #[must_use]
    pub fn new(location: ComputeLocation, concurrency: u32, process: Option<u32>) -> Self {
        Self {
            location,
            concurrency: concurrency.max(1),
            process,
            seconds_per_token: AtomicU32::new(0),
        }
    }

    fn seconds_per_token(&self) -> Option<f32> {
        let seconds = f32::from_bits(self.seconds_per_token.load(Ordering::Relaxed));
        (seconds > 0.0).then_some(seconds)
    }

    fn learn(&self, decode: Duration, tokens: u32) {
        // The first token comes with the prefill, so one token alone says nothing about decoding.
        if tokens < 2 {
            return;
        }
        let measured = decode.as_secs_f32() / (tokens - 1) as f32;
        let average = self.seconds_per_token().unwrap_or(measured);
        let learnt = average + TOKEN_TIME_WEIGHT * (measured - average);
        self.seconds_per_token
            .store(learnt.to_bits(), Ordering::Relaxed);
    }
}

/// How far the computation of a request has come.
#[derive(Debug)]
pub(super) struct RequestProgress {
    pub(super) rate: Arc<ModelRate>,
    started: Instant,
    /// Microseconds to the first token, plus 1; 0 before the first token.
    first_token: AtomicU64,
    tokens: AtomicU32,
}

impl RequestProgress {
    pub(super) fn new(rate: Arc<ModelRate>) -> Self {
        Self {
            rate,
            started: Instant::now(),
            first_token: AtomicU64::new(0),
            tokens: AtomicU32::new(0),
        }
    }

    /// Seconds since the computation started.
    pub(super) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Seconds of work so far: the elapsed time of the prefill, then the tokens written at the
    /// model's average time per token.
    pub(super) fn work(&self) -> f64 {
        let elapsed = self.seconds();
        match self.prefill() {
            None => elapsed,
            Some(prefill) => work_after_prefill(
                prefill.as_secs_f64(),
                elapsed,
                self.tokens.load(Ordering::Relaxed),
                self.rate.seconds_per_token(),
            ),
        }
    }

    /// Records one output token.
    pub(super) fn record_token(&self) {
        if self.tokens.fetch_add(1, Ordering::Relaxed) == 0 {
            let elapsed = self.started.elapsed().as_micros();
            let first = u64::try_from(elapsed).unwrap_or(u64::MAX - 1);
            self.first_token.store(first + 1, Ordering::Relaxed);
        }
    }

    /// Records the end of the answer. `tokens` is the exact number of output tokens; 0 keeps the
    /// number of recorded ones.
    pub(super) fn finish(&self, tokens: u32) {
        if tokens > 0 {
            self.tokens.store(tokens, Ordering::Relaxed);
        }
        if let Some(prefill) = self.prefill() {
            let decode = self.started.elapsed().saturating_sub(prefill);
            self.rate.learn(decode, tokens);
        }
    }

    /// The time to the first token, once there is one.
    fn prefill(&self) -> Option<Duration> {
        let first = self.first_token.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_micros(first))
    }
}

/// Seconds of work of a request that has written `tokens` tokens, the first of them by its prefill.
fn work_after_prefill(
    prefill: f64,
    elapsed: f64,
    tokens: u32,
    seconds_per_token: Option<f32>,
) -> f64 {
    let decode = match seconds_per_token {
        Some(seconds) => f64::from(seconds) * f64::from(tokens.saturating_sub(1)),
        None => (elapsed - prefill).max(0.0),
    };
    prefill + decode
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_counts_by_time_until_a_token_time_is_known() {
        assert!((work_after_prefill(2.0, 5.0, 9, None) - 5.0).abs() < 1e-9);
        assert!((work_after_prefill(2.0, 1.0, 9, None) - 2.0).abs() < 1e-9);
        assert!((work_after_prefill(2.0, 5.0, 9, Some(0.5)) - 6.0).abs() < 1e-9);
        assert!((work_after_prefill(2.0, 5.0, 1, Some(0.5)) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn token_time_is_a_moving_average() {
        let rate = ModelRate::new(ComputeLocation::Own, 1, None);
        rate.learn(Duration::from_secs(9), 1);
        assert_eq!(rate.seconds_per_token(), None);
        rate.learn(Duration::from_secs(10), 11);
        assert_eq!(rate.seconds_per_token(), Some(1.0));
        rate.learn(Duration::from_secs(20), 11);
        let average = rate.seconds_per_token().unwrap();
        assert!((average - 1.2).abs() < 1e-6);
    }
}
