//! The text of an answer that a task learns from.

use flotilla_core::generate::{FinishReason, GenerateEvent};

/// Largest answer that is kept, in bytes.
pub(crate) const MAX_ANSWER_BYTES: usize = 32 << 10;

/// The text of the first choice of an answer, as far as it has arrived.
#[derive(Debug, Default)]
pub(crate) struct KeptAnswer {
    text: String,
    reason: Option<FinishReason>,
    too_large: bool,
}

/// Why an answer is not kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AnswerNotKept {
    /// It was cut off, withheld, calls tools, or is empty.
    NoCompleteText,
    /// It is longer than [`MAX_ANSWER_BYTES`].
    TooLarge,
}

impl KeptAnswer {
    /// Appends the text of these events.
    pub(crate) fn append(&mut self, events: &[GenerateEvent]) {
        for event in events {
            match event {
                GenerateEvent::Delta(delta) if delta.choice == 0 => {
                    self.too_large |= self.text.len() + delta.content.len() > MAX_ANSWER_BYTES;
                    if !self.too_large {
                        self.text.push_str(&delta.content);
                    }
                }
                GenerateEvent::Finished(end) if end.choice == 0 => self.reason = Some(end.reason),
                _ => {}
            }
        }
    }

    /// Returns the text of the answer, if the model has ended it.
    ///
    /// # Errors
    /// Why the answer is not kept.
    pub(crate) fn complete(self) -> Result<String, AnswerNotKept> {
        if self.too_large {
            return Err(AnswerNotKept::TooLarge);
        }
        let has_ended = self.reason == Some(FinishReason::Stop);
        if !has_ended || self.text.trim().is_empty() {
            return Err(AnswerNotKept::NoCompleteText);
        }
        Ok(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::{ChoiceDelta, ChoiceFinished};

    fn read(parts: &[(u32, &str)], reason: Option<FinishReason>) -> Result<String, AnswerNotKept> {
        let mut answer = KeptAnswer::default();
        for (choice, content) in parts {
            answer.append(&[GenerateEvent::Delta(ChoiceDelta {
                choice: *choice,
                content: (*content).into(),
                ..ChoiceDelta::default()
            })]);
        }
        let end = |reason| GenerateEvent::Finished(ChoiceFinished { choice: 0, reason });
        answer.append(&reason.map(end).into_iter().collect::<Vec<_>>());
        answer.complete()
    }

    #[test]
    fn only_a_complete_text_of_bounded_size_is_kept() {
        let stop = Some(FinishReason::Stop);
        let parts = [(0, "one "), (1, "other"), (0, "two")];
        assert_eq!(read(&parts, stop).unwrap(), "one two");
        let no_text = Err(AnswerNotKept::NoCompleteText);
        for reason in [
            None,
            Some(FinishReason::Length),
            Some(FinishReason::ToolCalls),
            Some(FinishReason::ContentFilter),
        ] {
            assert_eq!(read(&parts, reason), no_text, "{reason:?}");
        }
        assert_eq!(read(&[(0, " ")], stop), no_text);
        let half = "x".repeat(MAX_ANSWER_BYTES / 2 + 1);
        let parts = [(0, half.as_str()), (0, half.as_str()), (0, "y")];
        assert_eq!(read(&parts, stop), Err(AnswerNotKept::TooLarge));
    }
}
