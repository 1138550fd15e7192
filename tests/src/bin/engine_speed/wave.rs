//! What was measured of requests that were sent at once.

use std::time::Duration;

/// The answers to requests that were sent at once.
#[derive(Debug, Default)]
pub(crate) struct Wave {
    /// For each answer, when each of its tokens came, since the requests were sent.
    pub(crate) tokens: Vec<Vec<Duration>>,
    /// The joules of one request, as the fleet estimates them. `None` if nobody does.
    pub(crate) joules: Option<f64>,
}

impl Wave {
    /// The median time to the first token, in milliseconds.
    pub(crate) fn first_token_ms(&self) -> f64 {
        let firsts = self.tokens.iter().filter_map(|times| times.first());
        let mut firsts: Vec<f64> = firsts.map(|time| time.as_secs_f64() * 1e3).collect();
        firsts.sort_by(f64::total_cmp);
        firsts.get(firsts.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The tokens of all answers, divided by the time until the last one came.
    pub(crate) fn tokens_per_second(&self) -> f64 {
        let count: usize = self.tokens.iter().map(Vec::len).sum();
        let ends = self.tokens.iter().filter_map(|times| times.last());
        let end = ends.max().copied().unwrap_or_default();
        count as f64 / end.as_secs_f64().max(1e-9)
    }

    /// The longest time between two tokens of an answer, in milliseconds.
    pub(crate) fn longest_pause_ms(&self) -> f64 {
        let pauses = self.tokens.iter().flat_map(|times| {
            let pairs = times.windows(2);
            pairs.map(|pair| pair[1].saturating_sub(pair[0]))
        });
        pauses.max().unwrap_or_default().as_secs_f64() * 1e3
    }
}
