//! The simulated engine: fixed tokens at a fixed speed, without a model. Benchmarks use it to measure
//! everything except a model; simulations use it in place of models.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::generate::{
    ChoiceDelta, ChoiceFinished, EmbedRequest, Embeddings, FinishReason, GenerateEvent,
    GenerateInput, GenerateRequest, RequestError, TokenLogprob, Usage,
};
use flotilla_core::routing::conversation_prefixes;
use flotilla_core::spec::{EngineOptions, Model};
use futures::{StreamExt, stream};
use parking_lot::Mutex;

use crate::{
    ComputeLocation, Engine, GenerateEvents, LoadControl, LoadError, LoadProgress, LoadedModel,
};

/// The tokens of an answer, repeated as often as needed.
const TOKENS: [&str; 9] = [
    "This ",
    "is ",
    "Flotilla's ",
    "simulated ",
    "engine; ",
    "it ",
    "runs ",
    "no ",
    "model. ",
];
/// The number of tokens in an answer if the spec does not say.
const DEFAULT_TOKENS: u32 = 16;
/// The number of conversation prefixes that a model remembers. When it is exceeded, all are forgotten.
const MAX_PREFIXES: usize = 10_000;

/// Answers with fixed tokens at a fixed speed.
pub struct SimulatedEngine {
    /// How many times slower than the spec the engine is; 1 for the speed of the spec.
    pub slowdown: f64,
}

#[async_trait]
impl Engine for SimulatedEngine {
    async fn estimate(&self, model: &Model) -> Result<Bytes, LoadError> {
        // The engine itself takes no memory: it simulates a model that takes what the spec says.
        Ok(model.spec.memory.unwrap_or_default())
    }

    async fn load(
        &self,
        model: &Model,
        _: LoadProgress,
        control: &LoadControl,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        tokio::select! {
            loaded = load(&model.spec.options, self.slowdown) => Ok(Arc::new(loaded?)),
            () = control.cancelled.cancelled() => Err(LoadError::Cancelled),
        }
    }
}

async fn load(options: &EngineOptions, slowdown: f64) -> Result<SimulatedModel, LoadError> {
    tokio::time::sleep(Duration::from_millis(options.load_ms.unwrap_or(0))).await;
    match &options.load_error {
        Some(problem) => Err(LoadError::Engine(problem.clone())),
        None => Ok(SimulatedModel::new(options, slowdown)),
    }
}

struct SimulatedModel {
    /// See [`SimulatedEngine::slowdown`].
    slowdown: f64,
    output_tokens: u32,
    /// The natural logarithm of every token's probability.
    logprob: f32,
    /// Time to the first token if no prefix of the prompt is remembered.
    first_token: Duration,
    /// The end of the warm-up: answers begin then at the earliest.
    warm_from: tokio::time::Instant,
    /// Time between tokens.
    token_interval: Duration,
    /// The prefixes of earlier conversations. `None` without a prefix cache.
    prefixes: Option<Mutex<HashSet<u64>>>,
}

impl SimulatedModel {
    fn new(options: &EngineOptions, slowdown: f64) -> Self {
        let speed = options.tokens_per_second.unwrap_or(0.0) / slowdown;
        let first_token = Duration::from_millis(options.time_to_first_token_ms.unwrap_or(0));
        Self {
            slowdown,
            output_tokens: options.output_tokens.unwrap_or(DEFAULT_TOKENS),
            logprob: options.token_probability.unwrap_or(1.0).ln(),
            first_token: first_token.mul_f64(slowdown),
            warm_from: tokio::time::Instant::now()
                + Duration::from_millis(options.warm_up_ms.unwrap_or(0)),
            token_interval: if speed > 0.0 {
                Duration::from_secs_f64(1.0 / speed)
            } else {
                Duration::ZERO
            },
            prefixes: options
                .prefix_cache
                .unwrap_or(false)
                .then(|| Mutex::new(HashSet::new())),
        }
    }

    /// Returns the fraction of the prompt after its longest remembered prefix, from 0 to 1, and
    /// remembers all prefixes of the prompt.
    fn uncached_fraction(&self, input: &GenerateInput) -> f64 {
        let Some(prefixes) = &self.prefixes else {
            return 1.0;
        };
        let marks = conversation_prefixes(input);
        let mut prefixes = prefixes.lock();
        let longest = marks.iter().find(|mark| prefixes.contains(&mark.key));
        let cached_bytes = longest.map_or(0.0, |mark| f64::from(mark.bytes));
        if prefixes.len() > MAX_PREFIXES {
            prefixes.clear();
        }
        prefixes.extend(marks.iter().map(|mark| mark.key));
        1.0 - cached_bytes / (input.bytes() as f64).max(1.0)
    }
}

/// Returns all events of an answer.
fn events(tokens: u32, logprob: f32, request: &GenerateRequest) -> Vec<GenerateEvent> {
    let limit = request.sampling.max_tokens.unwrap_or(u32::MAX);
    let count = tokens.min(limit);
    let reason = if count < tokens {
        FinishReason::Length
    } else {
        FinishReason::Stop
    };
    let mut events = Vec::with_capacity(count as usize + 3);
    if request.prompt_logprobs {
        events.push(GenerateEvent::Delta(ChoiceDelta {
            prompt_logprobs: prompt_tokens(&request.input, logprob),
            ..ChoiceDelta::default()
        }));
    }
    for index in 0..count {
        let token = TOKENS[index as usize % TOKENS.len()];
        let logprobs = request.logprobs.map(|_| TokenLogprob {
            token: token.into(),
            logprob,
            ..TokenLogprob::default()
        });
        events.push(GenerateEvent::Delta(ChoiceDelta {
            content: token.into(),
            logprobs: logprobs.into_iter().collect(),
            ..ChoiceDelta::default()
        }));
    }
    events.push(GenerateEvent::Finished(ChoiceFinished {
        choice: 0,
        reason,
    }));
    events.push(GenerateEvent::Usage(Usage {
        prompt_tokens: count_words(&request.input),
        completion_tokens: count,
        timing: None,
        energy: None,
    }));
    events
}

/// The words of a prompt with the white space that follows them, which stand for its tokens.
fn prompt_tokens(input: &GenerateInput, logprob: f32) -> Vec<TokenLogprob> {
    let texts = match input {
        GenerateInput::Text(text) => {
            let words = text.split_inclusive(char::is_whitespace);
            words.map(str::to_owned).collect()
        }
        GenerateInput::Tokens(tokens) => tokens.iter().map(u32::to_string).collect(),
        GenerateInput::Chat(_) => Vec::new(),
    };
    let tokens = texts.into_iter().map(|token| TokenLogprob {
        token,
        logprob,
        ..TokenLogprob::default()
    });
    tokens.collect()
}

/// The number of words, which stands for the number of tokens.
fn count_words(input: &GenerateInput) -> u32 {
    let count: usize = match input {
        GenerateInput::Text(text) => text.split_whitespace().count(),
        GenerateInput::Chat(messages) => messages
            .iter()
            .map(|message| message.content.split_whitespace().count())
            .sum(),
        GenerateInput::Tokens(tokens) => tokens.len(),
    };
    count as u32
}

#[async_trait]
impl LoadedModel for SimulatedModel {
    fn compute_location(&self) -> ComputeLocation {
        ComputeLocation::Simulated
    }

    fn has_prefix_cache(&self) -> bool {
        self.prefixes.is_some()
    }

    async fn load_adapter(&self, adapter: &Model) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let loaded = load(&adapter.spec.options, self.slowdown).await?;
        Ok(Arc::new(loaded))
    }

    async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        let events = events(self.output_tokens, self.logprob, &request);
        let first_token = self
            .first_token
            .mul_f64(self.uncached_fraction(&request.input));
        let interval = self.token_interval;
        let now = tokio::time::Instant::now();
        let begin = now.max(self.warm_from);
        if first_token.is_zero() && interval.is_zero() && begin == now {
            return Ok(stream::iter(events.into_iter().map(Ok)).boxed());
        }
        // Tokens have points in time instead of pauses, whose errors would add up.
        let start = begin + first_token;
        let timed = stream::iter(events)
            .enumerate()
            .then(move |(index, event)| async move {
                if matches!(event, GenerateEvent::Delta(_)) {
                    tokio::time::sleep_until(start + interval * index as u32).await;
                }
                Ok(event)
            });
        Ok(timed.boxed())
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

    fn request(max_tokens: Option<u32>) -> GenerateRequest {
        GenerateRequest {
            sampling: SamplingParams {
                max_tokens,
                ..SamplingParams::default()
            },
            stream: true,
            ..GenerateRequest::new(
                ModelName::new("m").unwrap(),
                GenerateInput::Text("a b c".into()),
            )
        }
    }

    #[test]
    fn max_tokens_ends_the_answer_with_reason_length() {
        let all = events(4, 0.0, &request(Some(3)));
        let deltas = all
            .iter()
            .filter(|e| matches!(e, GenerateEvent::Delta(_)))
            .count();
        assert_eq!(deltas, 3);
        let end = GenerateEvent::Finished(ChoiceFinished {
            choice: 0,
            reason: FinishReason::Length,
        });
        assert!(all.contains(&end));
        let usage = Usage {
            prompt_tokens: 3,
            completion_tokens: 3,
            timing: None,
            energy: None,
        };
        assert_eq!(all.last(), Some(&GenerateEvent::Usage(usage)));
    }

    #[tokio::test]
    async fn tokens_come_at_the_configured_speed() {
        let model = SimulatedModel {
            slowdown: 1.0,
            output_tokens: 5,
            logprob: 0.0,
            first_token: Duration::from_millis(20),
            warm_from: tokio::time::Instant::now(),
            token_interval: Duration::from_millis(10),
            prefixes: None,
        };
        let start = tokio::time::Instant::now();
        let events = model.generate(request(None)).await.unwrap();
        assert_eq!(events.count().await, 7);
        // The first token comes after 20 ms, four more at intervals of 10 ms. A busy machine takes
        // longer, never less.
        assert!(start.elapsed() >= Duration::from_millis(60));
    }
}
