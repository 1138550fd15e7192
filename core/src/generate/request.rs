//! Requests as engines take them: validated, typed, with the defaults filled in.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ModelName;
use crate::admission::QueueKey;
use crate::energy::EnergyUsage;

/// A request to continue a conversation or a text. `M` is a [`Route`](super::Route) in requests of
/// clients and a model name in requests to nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest<M = ModelName> {
    /// The model, or the route to one.
    pub model: M,
    /// The conversation or text that the model continues.
    pub input: GenerateInput,
    /// How tokens are sampled.
    pub sampling: SamplingParams,
    /// The tools that the model may call.
    pub tools: Vec<Tool>,
    /// Whether and which tool the model calls.
    pub tool_choice: ToolChoice,
    /// The format that the answer must have. `None` for any.
    pub constraint: Option<OutputConstraint>,
    /// `Some(k)` requests the log-probability of each token and of the `k` most probable tokens at its
    /// position.
    pub logprobs: Option<u32>,
    /// The number of independent answers, at least 1.
    pub choices: u32,
    /// Whether events are sent as they are generated. Otherwise they may all be sent at the end,
    /// which costs less.
    pub stream: bool,
    /// The request's position in the model's queue.
    pub queue_key: QueueKey,
    /// The time from now within which the request must be answered; it leaves the queue then. `None`
    /// for no deadline.
    pub deadline: Option<Duration>,
}

impl<M> GenerateRequest<M> {
    /// A request for one answer that is not streamed, with all options at their defaults.
    #[must_use]
    pub fn new(model: M, input: GenerateInput) -> Self {
        Self {
            model,
            input,
            sampling: SamplingParams::default(),
            tools: Vec::new(),
            tool_choice: ToolChoice::Auto,
            constraint: None,
            logprobs: None,
            choices: 1,
            stream: false,
            queue_key: QueueKey::default(),
            deadline: None,
        }
    }
}

/// What the model continues.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerateInput {
    /// A conversation, rendered with the model's chat template.
    Chat(Vec<ChatMessage>),
    /// A text, passed to the model unchanged.
    Text(String),
}

impl GenerateInput {
    /// The `gen_ai.operation.name` of OpenTelemetry's conventions.
    #[must_use]
    pub fn operation_name(&self) -> &'static str {
        match self {
            Self::Chat(_) => "chat",
            Self::Text(_) => "text_completion",
        }
    }

    /// The size of the text in bytes, with which the cost of the prefill grows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Chat(messages) => messages.iter().map(|message| message.content.len()).sum(),
            Self::Text(text) => text.len(),
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// The text of the turn.
    pub content: String,
    /// The participant's name.
    pub name: Option<String>,
    /// Tool calls that the assistant made in this turn.
    pub tool_calls: Vec<ToolCall>,
    /// The id of the call that a `tool` turn answers.
    pub tool_call_id: Option<String>,
}

/// A tool call by the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// The id by which the result refers to the call.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// The arguments, as JSON text.
    pub arguments: String,
}

/// How tokens are sampled and where an answer ends.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// The sampling temperature: 0 always takes the most probable token, 1 keeps the model's
    /// probabilities.
    pub temperature: f64,
    /// Sample among the most probable tokens that together have this probability; 1 for all tokens.
    pub top_p: f64,
    /// Sample among this many most probable tokens. `None` for all.
    pub top_k: Option<u32>,
    /// Drop tokens that are less probable than this fraction of the most probable one.
    pub min_p: Option<f64>,
    /// The seed: the same seed, request and model give the same answer. `None` for a random one.
    pub seed: Option<u64>,
    /// The most tokens of an answer. `None` for as many as the model's context has room for.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Subtracted from a token's logit for each of its occurrences.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit once it has occurred.
    pub presence_penalty: f32,
    /// Divides a token's logit once it has occurred; 1 for no penalty.
    pub repetition_penalty: Option<f32>,
    /// Added to the logits of tokens, by token id.
    pub logit_bias: BTreeMap<u32, f32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: None,
            seed: None,
            max_tokens: None,
            stop: Vec::new(),
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: None,
            logit_bias: BTreeMap::new(),
        }
    }
}

/// A function that the model may call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tool {
    /// The name of the function.
    pub name: String,
    /// What the function does.
    pub description: Option<String>,
    /// JSON schema of the arguments, as JSON text.
    pub parameters: Option<String>,
}

/// Whether and which tool the model calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// The model calls no tool.
    None,
    /// The model must call at least one tool.
    Required,
    /// The model must call the tool of this name.
    Named(String),
}

/// The format that an answer must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputConstraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that matches this schema, which is given as JSON text.
    JsonSchema(String),
}

/// A request for the embeddings of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedRequest<M = ModelName> {
    /// The model, or the route to one.
    pub model: M,
    /// The texts to embed, at least one.
    pub inputs: Vec<String>,
    /// The request's position in the model's queue.
    pub queue_key: QueueKey,
    /// The time from now within which the request must be answered; it leaves the queue then. `None`
    /// for no deadline.
    pub deadline: Option<Duration>,
}

/// The embeddings of texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embeddings {
    /// One vector for each text, in the order of the texts.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts.
    pub prompt_tokens: u32,
    /// The energy of the request. `None` if it is not known.
    pub energy: Option<EnergyUsage>,
}
