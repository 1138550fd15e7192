//! Answers of which only the prompt is wanted: `echo` with `max_tokens: 0`.
//!
//! Engines generate at least one token, so one is generated and dropped.

use flotilla_core::generate::{ChoiceDelta, ChoiceFinished, FinishReason, GenerateEvent};
use futures::StreamExt;

use crate::EventStream;

/// Removes what was generated from the events of an answer. Every choice has reached its limit then.
pub(super) fn without_answer(events: EventStream) -> EventStream {
    let remove = |event| match event {
        GenerateEvent::Delta(delta) => GenerateEvent::Delta(ChoiceDelta {
            choice: delta.choice,
            prompt_logprobs: delta.prompt_logprobs,
            ..ChoiceDelta::default()
        }),
        GenerateEvent::Finished(finished) => GenerateEvent::Finished(ChoiceFinished {
            reason: FinishReason::Length,
            ..finished
        }),
        GenerateEvent::Usage(mut usage) => {
            usage.completion_tokens = 0;
            GenerateEvent::Usage(usage)
        }
        GenerateEvent::Computed(_) => event,
    };
    events
        .map(move |batch| batch.map(|events| events.into_iter().map(remove).collect()))
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::{RequestError, Usage};
    use futures::stream;

    #[tokio::test]
    async fn only_the_end_and_the_tokens_of_the_prompt_remain() {
        let delta = GenerateEvent::Delta(ChoiceDelta {
            choice: 1,
            content: "dropped".into(),
            ..ChoiceDelta::default()
        });
        let end = |reason| GenerateEvent::Finished(ChoiceFinished { choice: 1, reason });
        let usage = |completion_tokens| {
            GenerateEvent::Usage(Usage {
                prompt_tokens: 5,
                completion_tokens,
                ..Usage::default()
            })
        };
        let batches = [Ok(vec![delta, end(FinishReason::Stop), usage(1)])];
        let batches: Vec<Result<Vec<GenerateEvent>, RequestError>> =
            without_answer(stream::iter(batches).boxed())
                .collect()
                .await;
        let empty = GenerateEvent::Delta(ChoiceDelta {
            choice: 1,
            ..ChoiceDelta::default()
        });
        assert_eq!(
            batches,
            [Ok(vec![empty, end(FinishReason::Length), usage(0)])]
        );
    }
}
