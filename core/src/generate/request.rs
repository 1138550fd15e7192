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
    /// Whether the model may call several tools in one answer. `None` for the model's default.
    pub parallel_tool_calls: Option<bool>,
    /// How much a reasoning model thinks before it answers, such as `low`. `None` for its default.
    pub reasoning_effort: Option<String>,
    /// Arguments of the model's chat template, such as `enable_thinking`, as the text of a JSON object.
    /// `None` for none.
    pub chat_template_args: Option<String>,
    /// The format that the answer must have. `None` for any.
    pub constraint: Option<OutputConstraint>,
    /// `Some(k)` requests the log-probability of each token and of the `k` most probable tokens at its
    /// position.
    pub logprobs: Option<u32>,
    /// Whether the log-probabilities of the prompt's tokens are requested too. Only with `logprobs`, and not
    /// for a conversation.
    pub prompt_logprobs: bool,
    /// The number of independent answers, at least 1.
    pub choices: u32,
    /// Whether events are sent as they are generated. Otherwise they may all be sent at the end,
    /// which costs less.
    pub stream: bool,
    /// Fields that only upstream servers use.
    pub upstream: UpstreamFields,
    /// The request's position in the model's queue.
    pub queue_key: QueueKey,
    /// The time from now within which the request must be answered; it leaves the queue then. `None`
    /// for no deadline.
    pub deadline: Option<Duration>,
}

/// Fields of a request that an upstream server gets as the client sent them. Other engines ignore them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamFields {
    /// The end user on whose behalf the client sends the request.
    pub user: Option<String>,
    /// Whether the client named the token limit `max_completion_tokens` instead of `max_tokens`. Some
    /// servers accept only the one, some only the other.
    pub max_completion_tokens: bool,
    /// Further fields, as the text of a JSON object. `None` for none.
    pub extra: Option<String>,
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
            parallel_tool_calls: None,
            reasoning_effort: None,
            chat_template_args: None,
            constraint: None,
            logprobs: None,
            prompt_logprobs: false,
            choices: 1,
            stream: false,
            upstream: UpstreamFields::default(),
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
    /// Token ids of the model's own vocabulary.
    Tokens(Vec<u32>),
}

impl GenerateInput {
    /// The `gen_ai.operation.name` of OpenTelemetry's conventions.
    #[must_use]
    pub fn operation_name(&self) -> &'static str {
        match self {
            Self::Chat(_) => "chat",
            Self::Text(_) | Self::Tokens(_) => "text_completion",
        }
    }

    /// The size of the input in bytes, with which the cost of the prefill grows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Chat(messages) => messages.iter().map(ChatMessage::bytes).sum(),
            Self::Text(text) => text.len(),
            Self::Tokens(tokens) => tokens.len().saturating_mul(BYTES_PER_TOKEN),
        }
    }
}

/// The number of bytes that a token stands for where only the number of tokens is known: about the
/// average of English text in vocabularies of 32,000 to 128,000 tokens.
const BYTES_PER_TOKEN: usize = 4;

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

impl ChatMessage {
    /// The size in bytes of what chat templates print of the turn.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let optional = [&self.name, &self.tool_call_id];
        let optional = optional.into_iter().flatten().map(String::len);
        let calls = self.tool_calls.iter();
        let calls = calls.map(|call| call.id.len() + call.name.len() + call.arguments.len());
        self.content.len() + optional.sum::<usize>() + calls.sum::<usize>()
    }
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

/// How tokens are sampled and where an answer ends. A field that is `None` has the model's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingParams {
    /// The sampling temperature: 0 always takes the most probable token, 1 keeps the model's
    /// probabilities.
    pub temperature: Option<f64>,
    /// Sample among the most probable tokens that together have this probability; 1 for all tokens.
    pub top_p: Option<f64>,
    /// Sample among this many most probable tokens; 0 for all.
    pub top_k: Option<u32>,
    /// Drop tokens that are less probable than this fraction of the most probable one.
    pub min_p: Option<f64>,
    /// The seed: the same seed, request and model give the same answer. Without one it is random.
    pub seed: Option<i64>,
    /// The most tokens of an answer.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Option<Vec<String>>,
    /// Subtracted from a token's logit for each of its occurrences.
    pub frequency_penalty: Option<f32>,
    /// Subtracted from a token's logit once it has occurred.
    pub presence_penalty: Option<f32>,
    /// Divides a token's logit once it has occurred; 1 for no penalty.
    pub repetition_penalty: Option<f32>,
    /// Added to the logits of tokens, by token id.
    pub logit_bias: BTreeMap<u32, f32>,
}

impl SamplingParams {
    /// Returns these values, and those of `defaults` where there is none. The bias of tokens has no
    /// default.
    #[must_use]
    pub fn or(self, defaults: &Self) -> Self {
        Self {
            temperature: self.temperature.or(defaults.temperature),
            top_p: self.top_p.or(defaults.top_p),
            top_k: self.top_k.or(defaults.top_k),
            min_p: self.min_p.or(defaults.min_p),
            seed: self.seed.or(defaults.seed),
            max_tokens: self.max_tokens.or(defaults.max_tokens),
            stop: self.stop.or_else(|| defaults.stop.clone()),
            frequency_penalty: self.frequency_penalty.or(defaults.frequency_penalty),
            presence_penalty: self.presence_penalty.or(defaults.presence_penalty),
            repetition_penalty: self.repetition_penalty.or(defaults.repetition_penalty),
            logit_bias: self.logit_bias,
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
    /// Whether the arguments must match the schema exactly. `None` for the server's default.
    pub strict: Option<bool>,
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
    /// JSON that matches this schema.
    JsonSchema(JsonSchemaFormat),
}

/// The JSON schema that an answer must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JsonSchemaFormat {
    /// The name that the client gave to the format.
    pub name: Option<String>,
    /// What the format is for.
    pub description: Option<String>,
    /// The schema, as JSON text.
    pub schema: String,
    /// Whether the answer must match the schema exactly. `None` for the server's default.
    pub strict: Option<bool>,
}

/// A request for the embeddings of texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedRequest<M = ModelName> {
    /// The model, or the route to one.
    pub model: M,
    /// The inputs to embed, at least one.
    pub inputs: Vec<EmbedInput>,
    /// The request's position in the model's queue.
    pub queue_key: QueueKey,
    /// The time from now within which the request must be answered; it leaves the queue then. `None`
    /// for no deadline.
    pub deadline: Option<Duration>,
}

/// One input of an embedding request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbedInput {
    /// A text.
    Text(String),
    /// Token ids of the model's own vocabulary.
    Tokens(Vec<u32>),
}

impl EmbedInput {
    /// The size of the input in bytes, with which the cost of the request grows.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(tokens) => tokens.len().saturating_mul(BYTES_PER_TOKEN),
        }
    }
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
