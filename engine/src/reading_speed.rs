//! How fast a model reads prompts.

use std::time::Duration;

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
}

impl ReadingSpeed {
    /// Learns from a prompt of this many tokens.
    pub(crate) fn learn(&mut self, tokens: u32, time: Duration) {
        if std::mem::replace(&mut self.is_warm, true) {
            self.tokens = DECAY * self.tokens + f64::from(tokens);
            // A clock of milliseconds shows the shortest times as zero.
            self.seconds = DECAY * self.seconds + time.as_secs_f64().max(0.001);
        }
    }

    /// The speed in tokens per second. `None` before anything was learnt.
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
}
