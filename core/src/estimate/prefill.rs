//! How the time to the first token grows with the bytes of the prompt.

use super::NEW_WEIGHT;

/// The weight of a new answer in the running variance and covariance of prompts, which need more
/// samples than the means.
const NEW_SLOPE_WEIGHT: f32 = 0.05;
/// The weight of the prior that prefill time is proportional to the prompt's bytes, in squared
/// coefficients of variation of the bytes seen so far.
const PROPORTIONAL_PRIOR: f32 = 0.01;
/// Bytes of a prompt up to which prefill time is mostly constant: the time of a short prompt does
/// not show how the time grows with its length.
const SHORT_PROMPT_BYTES: f32 = 100.0;

/// How the time to the first token grows with the bytes of the prompt: the running moments of a
/// linear regression.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PrefillRegression {
    /// Mean bytes of a prompt.
    pub(super) bytes: f32,
    /// Mean seconds to the first token.
    seconds: f32,
    /// Variance of the bytes.
    variance: f32,
    /// Covariance of bytes and seconds.
    covariance: f32,
}

impl PrefillRegression {
    /// The regression of one prompt.
    pub(super) fn new(bytes: f32, seconds: f32) -> Self {
        Self {
            bytes,
            seconds,
            variance: 0.0,
            covariance: 0.0,
        }
    }

    /// Learns from a prompt.
    pub(super) fn learn(&mut self, bytes: f32, seconds: f32) {
        let (bytes_off, seconds_off) = (bytes - self.bytes, seconds - self.seconds);
        let mean = |old: f32, new: f32| old + NEW_SLOPE_WEIGHT * (new - old);
        self.bytes += NEW_WEIGHT * bytes_off;
        self.seconds += NEW_WEIGHT * seconds_off;
        let remaining = 1.0 - NEW_WEIGHT;
        self.variance = mean(self.variance, remaining * bytes_off * bytes_off);
        self.covariance = mean(self.covariance, remaining * bytes_off * seconds_off);
    }

    /// The same regression for a replica that takes `factor` times as long.
    pub(super) fn scaled(self, factor: f32) -> Self {
        Self {
            seconds: self.seconds * factor,
            covariance: self.covariance * factor,
            ..self
        }
    }

    /// Seconds to read a prompt of `bytes`, by a ridge regression whose prior is proportionality.
    pub(super) fn seconds(self, bytes: f32) -> f32 {
        let typical = self.bytes.max(SHORT_PROMPT_BYTES);
        let prior = PROPORTIONAL_PRIOR * typical * typical;
        let proportion = self.seconds / typical;
        let slope = (self.covariance + prior * proportion) / (self.variance + prior);
        let slope = slope.clamp(0.0, 2.0 * proportion);
        (self.seconds + slope * (bytes - self.bytes)).max(0.0)
    }
}
