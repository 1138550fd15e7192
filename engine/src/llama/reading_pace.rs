//! How many tokens of prompts one step reads.
//!
//! While a step computes, no answer goes on and no client's leaving is noticed. So it reads as many tokens as this
//! model reads on this node in [`STEP_TIME`].

use std::time::Duration;

/// How long a step may take. Answers that are written beside a long prompt pause for as long.
const STEP_TIME: Duration = Duration::from_millis(240);
/// How long it may take while no answer is written: more tokens at once are read a little faster.
const IDLE_STEP_TIME: Duration = Duration::from_millis(500);
/// The fewest tokens that a step reads, whatever it takes: fewer would be read much slower each.
const LEAST_TOKENS: usize = 16;
/// The share of the latest step in the speed.
const LATEST_SHARE: f64 = 0.3;

/// Learns how fast prompts are read.
#[derive(Debug)]
pub(super) struct ReadingPace {
    /// The most tokens of one step.
    limit: usize,
    /// In tokens per second. `None` before the first step.
    speed: Option<f64>,
}

impl ReadingPace {
    /// `limit` is the most tokens of one step.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, speed: None }
    }

    /// How fast prompts are read, in tokens per second. `None` before the first one.
    pub(super) fn speed(&self) -> Option<f64> {
        self.speed
    }

    /// The number of tokens that the next step reads. `is_writing` says whether answers are written meanwhile.
    pub(super) fn tokens(&self, is_writing: bool) -> usize {
        let Some(speed) = self.speed else {
            return LEAST_TOKENS.min(self.limit);
        };
        let time = match is_writing {
            true => STEP_TIME,
            false => IDLE_STEP_TIME,
        };
        let tokens = (speed * time.as_secs_f64()) as usize;
        tokens.clamp(LEAST_TOKENS.min(self.limit), self.limit)
    }

    /// Takes note of a step that read this many tokens in `time`.
    pub(super) fn learn(&mut self, tokens: usize, time: Duration) {
        // A step of few tokens takes as long as one without any.
        if tokens < LEAST_TOKENS.min(self.limit) {
            return;
        }
        let speed = tokens as f64 / time.as_secs_f64().max(1e-6);
        self.speed = Some(match self.speed {
            None => speed,
            Some(before) => before + LATEST_SHARE * (speed - before),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_takes_as_long_as_answers_may_pause() {
        let mut pace = ReadingPace::new(512);
        assert_eq!(pace.tokens(true), 16);
        pace.learn(16, Duration::from_millis(100));
        assert_eq!(pace.tokens(true), 38);
        for _ in 0..50 {
            pace.learn(32, Duration::from_millis(32));
        }
        assert_eq!(pace.tokens(true), 239);
        assert_eq!(pace.tokens(false), 499);
        // A slow node reads the least, a fast one no more than fits into a step.
        for _ in 0..50 {
            pace.learn(16, Duration::from_secs(10));
        }
        assert_eq!(pace.tokens(true), 16);
        for _ in 0..50 {
            pace.learn(512, Duration::from_millis(10));
        }
        assert_eq!(pace.tokens(true), 512);
    }

    #[test]
    fn step_with_the_rest_of_a_prompt_teaches_nothing() {
        let mut pace = ReadingPace::new(512);
        pace.learn(3, Duration::from_millis(100));
        assert_eq!(pace.speed(), None);
    }
}
