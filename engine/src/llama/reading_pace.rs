//! How many tokens of prompts one step reads.
//!
//! While a step computes, no answer goes on and no client's leaving is noticed. So it reads as many tokens as this
//! model reads on this node in [`STEP_TIME`].

use std::time::Duration;

use crate::reading_speed::ReadingSpeed;

/// How long a step may take. Answers that are written beside a long prompt pause for as long.
const STEP_TIME: Duration = Duration::from_millis(240);
/// How long it may take while no answer is written: more tokens at once are read a little faster.
const IDLE_STEP_TIME: Duration = Duration::from_millis(500);
/// The fewest tokens that a step reads, whatever it takes: fewer would be read much slower each.
const LEAST_TOKENS: usize = 16;
/// A step of this many tokens reads about as fast as a larger one. It is a tile of llama.cpp's attention on the CPU
/// (`GGML_FA_TILE_Q`): fewer tokens do without tiles, and far behind in a prompt take longer than a whole one.
const TILE: usize = 64;
/// How much longer than it should a step with a single tile may take.
const TILE_PATIENCE: f64 = 1.5;
/// The share of the latest step in the pace.
const LATEST_SHARE: f64 = 0.3;

/// Learns how many tokens a step can read, and how fast prompts are read.
#[derive(Debug)]
pub(super) struct ReadingPace {
    /// The most tokens of one step.
    limit: usize,
    /// The tokens of prompts that the latest steps of a tile or more read in a second, whatever else they computed. `None`
    /// before the first one.
    tile_pace: Option<f64>,
    /// The same of smaller steps.
    small_pace: Option<f64>,
    /// Learns from the steps that [`is_representative`](Self::is_representative) says.
    speed: ReadingSpeed,
}

/// What a step has computed.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepTokens {
    /// The tokens of prompts.
    pub(super) read: usize,
    /// The tokens of answers.
    pub(super) written: usize,
}

impl ReadingPace {
    /// `limit` is the most tokens of one step.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            tile_pace: None,
            small_pace: None,
            speed: ReadingSpeed::default(),
        }
    }

    /// How fast a prompt is read that has the node for itself, in tokens per second. `None` before it was learnt.
    ///
    /// The speed is that of the fastest of the last steps that were large enough. A token of an answer that the step
    /// computed as well counts like one of the prompt.
    pub(super) fn speed(&self) -> Option<f64> {
        self.speed.best()
    }

    /// The number of tokens that the next step reads. `is_writing` says whether answers are written meanwhile.
    pub(super) fn tokens(&self, is_writing: bool) -> usize {
        let least = LEAST_TOKENS.min(self.limit);
        let time = match is_writing {
            true => STEP_TIME,
            false => IDLE_STEP_TIME,
        };
        let fitting = |pace: f64| (pace * time.as_secs_f64()) as usize;
        // A small step is no faster than a tile would be.
        let paces = [self.tile_pace, self.small_pace].into_iter().flatten();
        let Some(pace) = paces.reduce(f64::max) else {
            return least;
        };
        let tokens = match fitting(pace) {
            tokens if tokens >= TILE => tokens,
            _ if fitting(pace * TILE_PATIENCE) >= TILE => TILE,
            _ => fitting(self.small_pace.unwrap_or(pace)),
        };
        tokens.clamp(least, self.limit)
    }

    /// Takes note of a step that took `time` and whose only outputs were tokens of answers.
    pub(super) fn learn(&mut self, step: StepTokens, time: Duration) {
        // A step of few tokens takes as long as one without any.
        if step.read < LEAST_TOKENS.min(self.limit) {
            return;
        }
        if self.is_representative(step) {
            let tokens = step.read + step.written;
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            self.speed.learn(tokens, time);
        }
        let latest = step.read as f64 / time.as_secs_f64().max(1e-6);
        let pace = match step.read < TILE {
            true => &mut self.small_pace,
            false => &mut self.tile_pace,
        };
        *pace = Some(pace.map_or(latest, |before| before + LATEST_SHARE * (latest - before)));
    }

    /// Whether a step read as many tokens as one of a prompt that has the node for itself, or enough to be as fast.
    /// Smaller ones, beside answers, are slower for each token, since each step reads all weights.
    fn is_representative(&self, step: StepTokens) -> bool {
        step.read >= self.tokens(false).min(TILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(tokens: usize) -> StepTokens {
        StepTokens {
            read: tokens,
            written: 0,
        }
    }

    #[test]
    fn step_takes_as_long_as_answers_may_pause() {
        let mut pace = ReadingPace::new(512);
        assert_eq!(pace.tokens(true), 16);
        pace.learn(read(16), Duration::from_millis(100));
        assert_eq!(pace.tokens(true), 38);
        for _ in 0..50 {
            pace.learn(read(64), Duration::from_millis(64));
        }
        assert_eq!(pace.tokens(true), 240);
        assert_eq!(pace.tokens(false), 500);
        for _ in 0..50 {
            pace.learn(read(512), Duration::from_millis(10));
        }
        assert_eq!(pace.tokens(true), 512);
    }

    #[test]
    fn slow_node_reads_the_least() {
        let mut pace = ReadingPace::new(512);
        for _ in 0..50 {
            pace.learn(read(16), Duration::from_secs(10));
        }
        assert_eq!(pace.tokens(true), 16);
        // A batch may be smaller than that.
        assert_eq!(ReadingPace::new(8).tokens(true), 8);
    }

    /// A node on which a tile takes 300 ms far behind in a prompt, and a step of fewer tokens as long.
    #[test]
    fn a_tile_is_not_given_up_for_small_steps_that_take_as_long() {
        let mut pace = ReadingPace::new(512);
        for _ in 0..50 {
            let tokens = pace.tokens(true);
            pace.learn(read(tokens), Duration::from_millis(100));
        }
        assert!(pace.tokens(true) > 64);
        for _ in 0..50 {
            let tokens = pace.tokens(true);
            let tiles = tokens.div_ceil(64) as u64;
            pace.learn(read(tokens), Duration::from_millis(300 * tiles));
        }
        assert_eq!(pace.tokens(true), 64);
        // At the beginning of the next prompt a tile takes less again.
        for _ in 0..50 {
            let tokens = pace.tokens(true);
            pace.learn(read(tokens), Duration::from_millis(tokens as u64));
        }
        assert_eq!(pace.tokens(true), 239);
    }

    #[test]
    fn step_with_the_rest_of_a_prompt_teaches_nothing() {
        let mut pace = ReadingPace::new(512);
        pace.learn(read(3), Duration::from_millis(100));
        assert_eq!((pace.small_pace, pace.speed()), (None, None));
    }

    /// A node that takes 100 ms for any step, and 5 ms more for each of its tokens.
    fn time(step: StepTokens) -> Duration {
        Duration::from_millis(100 + 5 * (step.read + step.written) as u64)
    }

    fn read_prompts(pace: &mut ReadingPace, written: usize) {
        for _ in 0..50 {
            let read = pace.tokens(written > 0);
            let step = StepTokens { read, written };
            pace.learn(step, time(step));
        }
    }

    #[test]
    fn speed_of_a_prompt_alone_is_not_learnt_from_small_steps_beside_answers() {
        let mut pace = ReadingPace::new(256);
        read_prompts(&mut pace, 0);
        let alone = pace.speed().unwrap();
        assert!((140.0..160.0).contains(&alone), "{alone}");
        read_prompts(&mut pace, 8);
        assert!(pace.tokens(true) < 32, "{}", pace.tokens(true));
        assert_eq!(pace.speed(), Some(alone));
    }

    #[test]
    fn slow_node_learns_from_the_least_steps_beside_answers_too() {
        let mut pace = ReadingPace::new(256);
        let step = StepTokens {
            read: 16,
            written: 4,
        };
        for _ in 0..3 {
            pace.learn(step, Duration::from_secs(2));
        }
        assert_eq!(pace.speed(), Some(10.0));
    }
}
