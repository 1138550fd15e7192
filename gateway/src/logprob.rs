//! Log-probabilities in JSON.

/// The value OpenAI sends for a probability of zero, whose logarithm JSON cannot represent.
const MIN_LOGPROB: f32 = -9999.0;

/// Returns a finite log-probability: NaN and infinities become [`MIN_LOGPROB`].
pub(crate) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() {
        logprob.max(MIN_LOGPROB)
    } else {
        MIN_LOGPROB
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprob_of_an_impossible_token_is_valid_json() {
        assert_eq!(finite(f32::NEG_INFINITY), MIN_LOGPROB);
        assert_eq!(finite(f32::NAN), MIN_LOGPROB);
        assert_eq!(finite(-0.5), -0.5);
    }
}
