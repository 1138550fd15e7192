//! How fast a model reads prompts.

use std::collections::VecDeque;
use std::time::Duration;

/// The number of prompts among which the fastest is looked for.
const RECENT: usize = 16;
/// The tokens of a prompt that is long enough to be compared with others.
const COMPARABLE_TOKENS: u32 = 16;
/// What remains of what was learnt when another prompt was read.
const DECAY: f64 = 0.9;

/// The speed at which prompts are read, learnt from those before. A long prompt counts for more than a
/// short one, and a later one for more than an earlier one.
#[derive(Debug, Default)]
pub(crate) struct ReadingSpeed {
    tokens: f64,
    seconds: f64,
    /// Whether a prompt was read. The first one is read cold, and says nothing about later ones.
    is_warm: bool,
    /// The speeds of the last comparable prompts.
    recent: VecDeque<f64>,
}

impl ReadingSpeed {
    /// Learns from a prompt of this many tokens.
    pub(crate) fn learn(&mut self, tokens: u32, time: Duration) {
        if std::mem::replace(&mut self.is_warm, true) {
            self.tokens = DECAY * self.tokens + f64::from(tokens);
            // A clock of milliseconds shows the shortest times as zero.
            let seconds = time.as_secs_f64().max(0.001);
            self.seconds = DECAY * self.seconds + seconds;
            if tokens >= COMPARABLE_TOKENS {
                self.recent.truncate(RECENT - 1);
                self.recent.push_front(f64::from(tokens) / seconds);
            }
        }
    }

    /// The speed of the fastest of the last prompts, in tokens per second: what the model can do where nothing
    /// holds it up. `None` before anything was learnt.
    pub(crate) fn best(&self) -> Option<f64> {
        self.recent.iter().copied().reduce(f64::max)
    }

    /// The mean speed in tokens per second. `None` before anything was learnt.
    pub(crate) fn tokens_per_second(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.tokens / self.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_prompt_teaches_nothing_and_long_prompts_more() {
        let mut speed = ReadingSpeed::default();
        speed.learn(10, Duration::from_secs(10));
        assert_eq!(speed.tokens_per_second(), None);
        speed.learn(10, Duration::from_secs(1));
        assert_eq!(speed.tokens_per_second(), Some(10.0));
        speed.learn(1_000, Duration::from_secs(10));
        let learnt = speed.tokens_per_second().unwrap();
        assert!((90.0..100.0).contains(&learnt), "{learnt}");
    }
    #[test]
    fn prompt_that_was_held_up_does_not_lower_what_the_model_can_do() {
        let mut speed = ReadingSpeed::default();
        for _ in 0..3 {
            speed.learn(100, Duration::from_secs(1));
        }
        speed.learn(20, Duration::from_secs(60));
        assert_eq!(speed.best(), Some(100.0));
        assert!(speed.tokens_per_second().unwrap() < 5.0);
        for _ in 0..RECENT {
            speed.learn(20, Duration::from_secs(1));
        }
        assert_eq!(speed.best(), Some(20.0));
    }
}
