//! Collects the events of an answer that is not streamed.

use flotilla_core::generate::{
    ChoiceDelta, FinishReason, GenerateEvent, MAX_TOOL_CALLS, RequestError, TokenLogprob, ToolCall,
    ToolCallDelta, Usage,
};
use futures::StreamExt;

use crate::EventStream;

/// A complete answer.
#[derive(Debug, Default)]
pub(crate) struct CollectedAnswer {
    /// The choices, by index.
    pub(crate) choices: Vec<CollectedChoice>,
    /// Tokens and energy of all choices.
    pub(crate) usage: Usage,
}

/// One complete choice.
#[derive(Debug, Default)]
pub(crate) struct CollectedChoice {
    pub(crate) content: String,
    pub(crate) reasoning: String,
    pub(crate) refusal: String,
    pub(crate) tool_calls: Vec<ToolCall>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) prompt_logprobs: Vec<TokenLogprob>,
    /// `None` when the answer ended without a finish reason.
    pub(crate) finish_reason: Option<FinishReason>,
}

/// Reads an answer to a request for this many choices to its end.
///
/// # Errors
/// The error that ended the stream, or [`RequestError::NodeLost`] when the stream ended before
/// its usage.
pub(crate) async fn collect(
    mut events: EventStream,
    choices: u32,
) -> Result<CollectedAnswer, RequestError> {
    let mut answer = CollectedAnswer::default();
    let mut complete = false;
    while let Some(batch) = events.next().await {
        let batch = match batch {
            Ok(batch) => batch,
            // The answer is already complete: a failure of the node no longer matters.
            Err(_) if complete => break,
            Err(error) => return Err(error),
        };
        for event in batch {
            match event {
                GenerateEvent::Delta(delta) => {
                    answer.choice_mut(delta.choice, choices)?.append(delta)?;
                }
                GenerateEvent::Finished(end) => {
                    answer.choice_mut(end.choice, choices)?.finish_reason = Some(end.reason)
                }
                GenerateEvent::Usage(usage) => {
                    answer.usage = usage;
                    complete = true;
                }
                GenerateEvent::Computed(_) => {}
            }
        }
    }
    if complete {
        Ok(answer)
    } else {
        Err(RequestError::NodeLost(
            "the answer broke off before its end".into(),
        ))
    }
}

impl CollectedAnswer {
    /// Returns one of the `choices` that were requested.
    fn choice_mut(
        &mut self,
        index: u32,
        choices: u32,
    ) -> Result<&mut CollectedChoice, RequestError> {
        if index >= choices {
            return Err(out_of_bounds("choice", index));
        }
        let index = index as usize;
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Default::default);
        }
        Ok(&mut self.choices[index])
    }
}

impl CollectedChoice {
    fn append(&mut self, delta: ChoiceDelta) -> Result<(), RequestError> {
        if self.content.is_empty() {
            self.content = delta.content;
        } else {
            self.content.push_str(&delta.content);
        }
        self.reasoning.push_str(&delta.reasoning);
        self.refusal.push_str(&delta.refusal);
        self.logprobs.extend(delta.logprobs);
        self.prompt_logprobs.extend(delta.prompt_logprobs);
        for call in delta.tool_calls {
            self.append_tool_call(call)?;
        }
        Ok(())
    }

    fn append_tool_call(&mut self, delta: ToolCallDelta) -> Result<(), RequestError> {
        if delta.index as usize >= MAX_TOOL_CALLS {
            return Err(out_of_bounds("tool call", delta.index));
        }
        let index = delta.index as usize;
        if self.tool_calls.len() <= index {
            self.tool_calls.resize_with(index + 1, Default::default);
        }
        let call = &mut self.tool_calls[index];
        if let Some(id) = delta.id {
            call.id = id;
        }
        if let Some(name) = delta.name {
            call.name = name;
        }
        call.arguments.push_str(&delta.arguments);
        Ok(())
    }
}

/// The error of a number that no answer can have. Nothing is allocated by it.
fn out_of_bounds(what: &str, index: u32) -> RequestError {
    RequestError::Engine(format!("The answer has a {what} number {index}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::ChoiceFinished;
    use futures::stream;

    fn delta(choice: u32, content: &str) -> GenerateEvent {
        GenerateEvent::Delta(ChoiceDelta {
            choice,
            content: content.into(),
            ..ChoiceDelta::default()
        })
    }

    #[tokio::test]
    async fn deltas_of_several_choices_are_joined() {
        let events = vec![
            delta(1, "c"),
            delta(0, "a"),
            delta(0, "b"),
            GenerateEvent::Finished(ChoiceFinished {
                choice: 0,
                reason: FinishReason::Length,
            }),
            GenerateEvent::Usage(Usage {
                prompt_tokens: 3,
                completion_tokens: 3,
                timing: None,
                energy: None,
            }),
        ];
        let answer = collect(Box::pin(stream::iter([Ok(events)])), 2)
            .await
            .unwrap();
        assert_eq!(answer.choices[0].content, "ab");
        assert_eq!(answer.choices[0].finish_reason, Some(FinishReason::Length));
        assert_eq!(answer.choices[1].content, "c");
    }

    #[tokio::test]
    async fn numbers_out_of_bounds_allocate_nothing() {
        let call = ChoiceDelta {
            tool_calls: vec![ToolCallDelta {
                index: 3_000_000_000,
                ..ToolCallDelta::default()
            }],
            ..ChoiceDelta::default()
        };
        for event in [
            delta(3_000_000_000, "a"),
            delta(1, "a"),
            GenerateEvent::Delta(call),
        ] {
            let events: EventStream = Box::pin(stream::iter([Ok(vec![event])]));
            let error = collect(events, 1).await.err();
            assert!(matches!(error, Some(RequestError::Engine(_))), "{error:?}");
        }
    }

    #[tokio::test]
    async fn answer_without_usage_is_an_error() {
        let events: EventStream = Box::pin(stream::iter([Ok(vec![delta(0, "a")])]));
        assert!(matches!(
            collect(events, 1).await,
            Err(RequestError::NodeLost(_))
        ));
    }
}
