//! The ranges of sampling parameters, which hold in requests, specs and files of models.

use std::ops::RangeInclusive;

/// The range of the temperature.
pub const TEMPERATURE: RangeInclusive<f64> = 0.0..=2.0;
/// The range of probabilities: top-p and min-p.
pub const PROBABILITY: RangeInclusive<f64> = 0.0..=1.0;
/// The range of the frequency penalty and the presence penalty.
pub const PENALTY: RangeInclusive<f32> = -2.0..=2.0;
/// The range of the repetition penalty.
pub const REPETITION_PENALTY: RangeInclusive<f32> = 0.01..=100.0;
/// The most stop texts.
pub const MAX_STOPS: usize = 16;
