//! Runs one generation per prompt and joins their events into one stream.
//!
//! The choices of each prompt are numbered after those of the prompts before it.

use flotilla_core::generate::{GenerateEvent, GenerateRequest, RequestError, Route, Usage};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt};

use crate::backend::{BackendAnswer, ServedBy};
use crate::{Backend, BackendError, EventStream};

/// Starts the generations. With several of them, the replica of the first one is returned.
pub(super) async fn generate(
    backend: &impl Backend,
    mut generations: Vec<GenerateRequest<Route>>,
) -> Result<(ServedBy, EventStream), BackendError> {
    if generations.len() == 1 {
        let BackendAnswer { served_by, content } = backend.generate(generations.remove(0)).await?;
        return Ok((served_by, content));
    }
    let choices = generations.first().map_or(1, |request| request.choices);
    let answers = try_join_all(generations.into_iter().map(|r| backend.generate(r))).await?;
    let served_by = answers
        .first()
        .map(|answer| answer.served_by.clone())
        .ok_or_else(|| RequestError::invalid("prompt", "'prompt' must not be empty."))?;
    let streams = answers.into_iter().zip(0..).map(|(answer, prompt)| {
        let renumber = move |batch: Result<Vec<GenerateEvent>, RequestError>| {
            batch.map(|events| {
                let shifted = events
                    .into_iter()
                    .map(|event| shift_choice(event, prompt * choices));
                shifted.collect::<Vec<_>>()
            })
        };
        answer.content.map(renumber).boxed()
    });
    Ok((served_by, sum_usage(stream::select_all(streams).boxed())))
}

/// Adds `offset` to the choice index of an event.
fn shift_choice(event: GenerateEvent, offset: u32) -> GenerateEvent {
    match event {
        GenerateEvent::Delta(mut delta) => {
            delta.choice += offset;
            GenerateEvent::Delta(delta)
        }
        GenerateEvent::Finished(mut finished) => {
            finished.choice += offset;
            GenerateEvent::Finished(finished)
        }
        GenerateEvent::Usage(usage) => GenerateEvent::Usage(usage),
    }
}

/// Replaces the usage events of all generations by their sum at the end. The first error ends
/// the stream.
fn sum_usage(events: EventStream) -> EventStream {
    struct SumState {
        events: EventStream,
        total: Usage,
        ended: bool,
    }
    let start = SumState {
        events,
        total: Usage::default(),
        ended: false,
    };
    stream::unfold(start, async |mut state| {
        if state.ended {
            return None;
        }
        let batch = match state.events.next().await {
            Some(Ok(mut batch)) => {
                batch.retain(|event| {
                    if let GenerateEvent::Usage(usage) = event {
                        add_usage(&mut state.total, usage);
                    }
                    !matches!(event, GenerateEvent::Usage(_))
                });
                Ok(batch)
            }
            Some(Err(error)) => {
                state.ended = true;
                Err(error)
            }
            None => {
                state.ended = true;
                Ok(vec![GenerateEvent::Usage(state.total)])
            }
        };
        Some((batch, state))
    })
    .boxed()
}

fn add_usage(total: &mut Usage, usage: &Usage) {
    total.prompt_tokens += usage.prompt_tokens;
    total.completion_tokens += usage.completion_tokens;
    total.energy = match (total.energy, usage.energy) {
        (Some(sum), Some(more)) => Some(sum.combine(more)),
        (sum, more) => sum.or(more),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::ChoiceDelta;

    #[tokio::test]
    async fn usage_is_summed_and_comes_last() {
        let usage = GenerateEvent::Usage(Usage {
            prompt_tokens: 1,
            completion_tokens: 2,
            timing: None,
            energy: None,
        });
        let delta = GenerateEvent::Delta(ChoiceDelta::default());
        let batches = stream::iter([Ok(vec![usage.clone()]), Ok(vec![delta.clone(), usage])]);
        let events: Vec<_> = sum_usage(batches.boxed())
            .map(Result::unwrap)
            .concat()
            .await;
        let total = GenerateEvent::Usage(Usage {
            prompt_tokens: 2,
            completion_tokens: 4,
            timing: None,
            energy: None,
        });
        assert_eq!(events, [delta, total]);
    }
}
