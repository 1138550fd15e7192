//! The simulated engine: fixed tokens at a fixed pace. It measures everything but a model, and
//! stands for models in simulations; its answers say what they are.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::generate::{
    ChoiceDelta, ChoiceFinished, EmbedRequest, Embeddings, FinishReason, GenerateEvent,
    GenerateInput, GenerateRequest, RequestError, TokenLogprob, Usage,
};
use flotilla_core::routing::marks;
use flotilla_core::spec::{EngineOptions, Model};
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use crate::{ComputeLocation, Engine, GenerateEvents, LoadError, LoadProgress, LoadedModel};

/// What the answers are made of, over and over.
const WORDS: [&str; 9] = [
    "This ",
    "is ",
    "the ",
    "simulated ",
    "engine ",
    "of ",
    "Flotilla, ",
    "no ",
    "model. ",
];
/// Tokens of an answer unless the spec says otherwise.
const DEFAULT_TOKENS: u32 = 16;

/// Fixed tokens at a fixed pace.
pub struct SimulatedEngine {
    /// How many times slower than the spec says.
    pub slowdown: f64,
}

#[async_trait]
impl Engine for SimulatedEngine {
    async fn estimate(&self, model: &Model) -> Result<Bytes, LoadError> {
        // It takes none, and stands for what the spec says it takes.
        Ok(model.spec.memory.unwrap_or_default())
    }

    async fn load(
        &self,
        model: &Model,
        _: LoadProgress,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let options = &model.spec.options;
        tokio::time::sleep(Duration::from_millis(options.load_ms.unwrap_or(0))).await;
        if let Some(problem) = &options.load_error {
            return Err(LoadError::Engine(problem.clone()));
        }
        Ok(Arc::new(SimulatedModel::new(options, self.slowdown)))
    }
}

struct SimulatedModel {
    tokens: u32,
    /// Of each token: its logarithm.
    logprob: f32,
    first: Duration,
    /// Time between tokens.
    gap: Duration,
    /// The beginnings of conversations that it has read, where it keeps them.
    read: Option<Mutex<HashSet<u64>>>,
}

/// Beginnings that are kept; then all are forgotten.
const KEPT: usize = 10_000;

impl SimulatedModel {
    /// The part of the prompt that it has not read before.
    fn unread(&self, input: &GenerateInput) -> f64 {
        let Some(read) = &self.read else {
            return 1.0;
        };
        let marks = marks(input);
        let mut read = read.lock();
        let known = marks.iter().find(|mark| read.contains(&mark.key));
        let known = known.map_or(0.0, |mark| f64::from(mark.bytes));
        if read.len() > KEPT {
            read.clear();
        }
        read.extend(marks.iter().map(|mark| mark.key));
        1.0 - known / (input.bytes() as f64).max(1.0)
    }

    fn new(options: &EngineOptions, slowdown: f64) -> Self {
        let pace = options.tokens_per_second.unwrap_or(0.0) / slowdown;
        Self {
            tokens: options.output_tokens.unwrap_or(DEFAULT_TOKENS),
            logprob: options.token_probability.unwrap_or(1.0).ln(),
            first: Duration::from_millis(options.time_to_first_token_ms.unwrap_or(0))
                .mul_f64(slowdown),
            read: options.prefix_cache.unwrap_or(false).then(Mutex::default),
            gap: if pace > 0.0 {
                Duration::from_secs_f64(1.0 / pace)
            } else {
                Duration::ZERO
            },
        }
    }
}

/// All events of an answer, with its tokens in turn over the choices.
fn events(tokens: u32, logprob: f32, request: &GenerateRequest) -> Vec<GenerateEvent> {
    let limit = request.sampling.max_tokens.unwrap_or(u32::MAX);
    let given = tokens.min(limit);
    let reason = if given < tokens {
        FinishReason::Length
    } else {
        FinishReason::Stop
    };
    let mut events = Vec::with_capacity((given + 1) as usize * request.choices as usize + 1);
    for index in 0..given {
        let word = WORDS[index as usize % WORDS.len()];
        for choice in 0..request.choices {
            let logprobs = request.logprobs.map(|_| TokenLogprob {
                token: word.into(),
                logprob,
                ..TokenLogprob::default()
            });
            events.push(GenerateEvent::Delta(ChoiceDelta {
                choice,
                content: word.into(),
                logprobs: logprobs.into_iter().collect(),
                ..ChoiceDelta::default()
            }));
        }
    }
    let ends = (0..request.choices)
        .map(|choice| GenerateEvent::Finished(ChoiceFinished { choice, reason }));
    events.extend(ends);
    let prompt: usize = match &request.input {
        GenerateInput::Text(text) => text.split_whitespace().count(),
        GenerateInput::Chat(messages) => messages
            .iter()
            .map(|message| message.content.split_whitespace().count())
            .sum(),
    };
    events.push(GenerateEvent::Usage(Usage {
        prompt_tokens: prompt as u32,
        completion_tokens: given.saturating_mul(request.choices),
        timing: None,
        energy: None,
    }));
    events
}

#[async_trait]
impl LoadedModel for SimulatedModel {
    fn compute_location(&self) -> ComputeLocation {
        ComputeLocation::Simulated
    }

    fn has_prefix_cache(&self) -> bool {
        self.read.is_some()
    }

    async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        let events = events(self.tokens, self.logprob, &request);
        let first = self.first.mul_f64(self.unread(&request.input));
        let gap = self.gap;
        if first.is_zero() && gap.is_zero() {
            return Ok(stream::iter(events.into_iter().map(Ok)).boxed());
        }
        // Ticks of a clock rather than pauses, so that the pace does not drift.
        let start = tokio::time::Instant::now() + first;
        let choices = request.choices as usize;
        let paced = stream::iter(events)
            .enumerate()
            .then(move |(i, event)| async move {
                if matches!(event, GenerateEvent::Delta(_)) {
                    tokio::time::sleep_until(start + gap * (i / choices) as u32).await;
                }
                Ok(event)
            });
        Ok(paced.boxed())
    }

    async fn embed(&self, _: EmbedRequest) -> Result<Embeddings, RequestError> {
        Err(RequestError::invalid(
            "model",
            "The simulated engine makes no embeddings.",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::ModelName;
    use flotilla_core::generate::SamplingParams;

    fn request(max_tokens: Option<u32>, choices: u32) -> GenerateRequest {
        GenerateRequest {
            sampling: SamplingParams {
                max_tokens,
                ..SamplingParams::default()
            },
            choices,
            stream: true,
            ..GenerateRequest::new(
                ModelName::new("m").unwrap(),
                GenerateInput::Text("a b c".into()),
            )
        }
    }

    #[test]
    fn max_tokens_cuts_the_answer_and_says_so() {
        let all = events(4, 0.0, &request(Some(3), 2));
        let deltas = all
            .iter()
            .filter(|e| matches!(e, GenerateEvent::Delta(_)))
            .count();
        assert_eq!(deltas, 6);
        let end = GenerateEvent::Finished(ChoiceFinished {
            choice: 1,
            reason: FinishReason::Length,
        });
        assert!(all.contains(&end));
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 6,
            timing: None,
            energy: None,
        };
        assert_eq!(all.last(), Some(&GenerateEvent::Usage(usage)));
    }

    #[tokio::test]
    async fn the_pace_is_kept() {
        let model = SimulatedModel {
            logprob: 0.0,
            read: None,
            tokens: 5,
            first: Duration::from_millis(20),
            gap: Duration::from_millis(10),
        };
        let start = tokio::time::Instant::now();
        let events = model.generate(request(None, 1)).await.unwrap();
        assert_eq!(events.count().await, 7);
        // The first token comes after 20 ms, four more 10 ms apart each; a busy machine may
        // take longer, never less.
        assert!(start.elapsed() >= Duration::from_millis(60));
    }
}
