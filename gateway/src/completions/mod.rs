//! `/v1/completions`: a text continued as it is, without a chat template.

mod request;
mod response;

use axum::response::Response;
use flotilla_core::generate::{GenerateEvent, GenerateRequest, RequestError, Route, Usage};
use futures::future::try_join_all;
use futures::stream::{self, StreamExt};

use crate::backend::{BackendAnswer, ServedBy};
use crate::chat::{CompletionId, collect};
use crate::{ApiError, Backend, BackendError, EventStream, sse};

pub(crate) use request::{CompletionBody, CompletionRequest};

/// Answers a completion request: each prompt is a generation of its own, its choices
/// numbered after those of the prompts before it.
pub(crate) async fn answer(
    backend: &impl Backend,
    request: CompletionRequest,
) -> Result<Response, ApiError> {
    let (stream, include_usage) = (request.stream(), request.include_usage);
    let echo = request.echo();
    let logprobs = request.logprobs();
    let begun = begin(backend, request.generations).await;
    let (by, batches) = begun.map_err(ApiError::prompt_in("prompt"))?;
    let identity = CompletionId::new("cmpl", by.model.as_str().to_owned());
    let mut response = if stream {
        let writer = response::ChunkWriter::new(&identity, include_usage, echo);
        sse::response(batches, writer)
    } else {
        let collected = collect(batches)
            .await
            .map_err(|error: RequestError| by.failed(error, "prompt"))?;
        response::whole(&identity, collected, &echo, logprobs)
    };
    crate::router::tag(&mut response, &by);
    Ok(response)
}

/// Begins one generation per prompt and joins their events.
async fn begin(
    backend: &impl Backend,
    mut generations: Vec<GenerateRequest<Route>>,
) -> Result<(ServedBy, EventStream), BackendError> {
    if generations.len() == 1 {
        let BackendAnswer {
            served_by: by,
            content,
        } = backend.generate(generations.remove(0)).await?;
        return Ok((by, content));
    }
    let choices = generations.first().map_or(1, |request| request.choices);
    let answers = try_join_all(generations.into_iter().map(|r| backend.generate(r))).await?;
    let by = answers
        .first()
        .map(|answer| answer.served_by.clone())
        .ok_or_else(|| RequestError::invalid("prompt", "'prompt' must not be empty."))?;
    let prompts = answers.into_iter().zip(0..).map(|(answer, prompt)| {
        let renumber = move |batch: Result<Vec<GenerateEvent>, RequestError>| {
            batch.map(|events| {
                let shifted = events.into_iter().map(|e| shift(e, prompt * choices));
                shifted.collect::<Vec<_>>()
            })
        };
        answer.content.map(renumber).boxed()
    });
    Ok((by, one_usage(stream::select_all(prompts).boxed())))
}

/// Moves an event's choice number up by `offset`.
fn shift(event: GenerateEvent, offset: u32) -> GenerateEvent {
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

/// Takes the usage of each generation out and puts their sum at the end. An error ends the
/// whole.
fn one_usage(batches: EventStream) -> EventStream {
    struct State {
        batches: EventStream,
        total: Usage,
        ended: bool,
    }
    let start = State {
        batches,
        total: Usage::default(),
        ended: false,
    };
    stream::unfold(start, async |mut state| {
        if state.ended {
            return None;
        }
        let batch = match state.batches.next().await {
            Some(Ok(mut events)) => {
                events.retain(|event| {
                    if let GenerateEvent::Usage(usage) = event {
                        state.total.prompt_tokens += usage.prompt_tokens;
                        state.total.completion_tokens += usage.completion_tokens;
                        state.total.energy = match (state.total.energy, usage.energy) {
                            (Some(sum), Some(more)) => Some(sum.combine(more)),
                            (sum, more) => sum.or(more),
                        };
                    }
                    !matches!(event, GenerateEvent::Usage(_))
                });
                Ok(events)
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
        let events: Vec<_> = one_usage(batches.boxed())
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
