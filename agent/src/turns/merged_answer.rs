//! One answer made of those of several turns.

use flotilla_core::energy::EnergyUsage;
use flotilla_core::generate::{AnswerTiming, GenerateEvent, RequestError, Usage};

/// One answer made of those of several turns, each of which has one choice of it.
pub(super) struct MergedAnswer {
    /// Turns that have not ended yet.
    unfinished: u32,
    usage: Usage,
}

impl MergedAnswer {
    pub(super) fn new(turns: u32) -> Self {
        Self {
            unfinished: turns,
            usage: Usage::default(),
        }
    }

    /// Adds an event of a turn. Returns the event of the whole answer that follows from it: a turn's choice
    /// has the index of the turn, and the usage of the last turn becomes that of all turns. `None` if
    /// nothing follows.
    pub(super) fn add(&mut self, turn: u32, event: GenerateEvent) -> Option<GenerateEvent> {
        match event {
            GenerateEvent::Delta(mut delta) => {
                delta.choice = turn;
                Some(GenerateEvent::Delta(delta))
            }
            GenerateEvent::Finished(mut finished) => {
                finished.choice = turn;
                Some(GenerateEvent::Finished(finished))
            }
            GenerateEvent::Computed(_) => None,
            GenerateEvent::Usage(usage) => {
                self.add_usage(turn, usage);
                self.unfinished = self.unfinished.saturating_sub(1);
                (self.unfinished == 0).then_some(GenerateEvent::Usage(self.usage))
            }
        }
    }

    /// Checks that every turn has ended with its usage, once there are no more events.
    ///
    /// # Errors
    /// [`RequestError::Engine`] when one has not.
    pub(super) fn check_complete(&self) -> Result<(), RequestError> {
        match self.unfinished {
            0 => Ok(()),
            _ => Err(RequestError::Engine(
                "a choice ended without its usage".into(),
            )),
        }
    }

    fn add_usage(&mut self, turn: u32, usage: Usage) {
        let total = &mut self.usage;
        // All choices have the same prompt.
        total.prompt_tokens = total.prompt_tokens.max(usage.prompt_tokens);
        total.completion_tokens = total
            .completion_tokens
            .saturating_add(usage.completion_tokens);
        total.energy = EnergyUsage::combine_known(total.energy, usage.energy);
        if let Some(timing) = usage.timing {
            total.timing = Some(add_timing(total.timing.unwrap_or_default(), turn, timing));
        }
    }
}

/// Adds the timing of a turn. The answer has waited and read its prompt as long as its first turn, and has
/// written as long as all turns together: that is what a prompt's byte and an answer's token take.
fn add_timing(total: AnswerTiming, turn: u32, timing: AnswerTiming) -> AnswerTiming {
    let first = if turn == 0 { timing } else { total };
    AnswerTiming {
        queued: first.queued,
        prefill: first.prefill,
        decode: total.decode + timing.decode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::Joules;
    use flotilla_core::generate::{ChoiceDelta, ChoiceFinished, FinishReason};
    use std::time::Duration;

    fn usage(tokens: u32, millis: [u64; 3]) -> GenerateEvent {
        let [queued, prefill, decode] = millis.map(Duration::from_millis);
        GenerateEvent::Usage(Usage {
            prompt_tokens: 7,
            completion_tokens: tokens,
            timing: Some(AnswerTiming {
                queued,
                prefill,
                decode,
            }),
            energy: Some(EnergyUsage {
                joules: Joules(2.0),
                ..EnergyUsage::default()
            }),
        })
    }

    #[test]
    fn choices_have_the_index_of_their_turn() {
        let mut answer = MergedAnswer::new(3);
        let delta = |choice| {
            GenerateEvent::Delta(ChoiceDelta {
                choice,
                content: "a".into(),
                ..ChoiceDelta::default()
            })
        };
        let finished = |choice| {
            let reason = FinishReason::Stop;
            GenerateEvent::Finished(ChoiceFinished { choice, reason })
        };
        assert_eq!(answer.add(2, delta(0)), Some(delta(2)));
        assert_eq!(answer.add(1, finished(0)), Some(finished(1)));
    }

    #[test]
    fn usage_comes_once_with_the_sums_of_all_turns() {
        let mut answer = MergedAnswer::new(3);
        assert_eq!(answer.add(1, usage(5, [900, 50, 100])), None);
        assert_eq!(answer.add(0, usage(4, [10, 40, 80])), None);
        assert!(answer.check_complete().is_err());
        let Some(GenerateEvent::Usage(total)) = answer.add(2, usage(6, [950, 60, 120])) else {
            panic!("no usage after the last turn");
        };
        assert_eq!((total.prompt_tokens, total.completion_tokens), (7, 15));
        assert_eq!(total.energy.unwrap().joules, Joules(6.0));
        let timing = AnswerTiming {
            queued: Duration::from_millis(10),
            prefill: Duration::from_millis(40),
            decode: Duration::from_millis(300),
        };
        assert_eq!(total.timing, Some(timing));
        assert_eq!(answer.check_complete(), Ok(()));
    }
}
