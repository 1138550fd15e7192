//! Requests, in the shape engines want them: checked, typed, with the defaults filled in.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ModelName;
use crate::admission::QueueKey;
use crate::energy::EnergyUsage;

/// Ask a model to continue a conversation or a text. Clients ask for a
/// [`Route`](super::Route), nodes for one of their models.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest<M = ModelName> {
    pub model: M,
    pub input: GenerateInput,
    pub sampling: SamplingParams,
    /// Tools the model may call.
    pub tools: Vec<Tool>,
    pub tool_choice: ToolChoice,
    /// The form the answer must have.
    pub constraint: Option<OutputConstraint>,
    /// `Some(k)`: return the log-probability of each token and of its `k` best alternatives.
    pub logprobs: Option<u32>,
    /// Independent answers wanted, at least 1.
    pub choices: u32,
    /// Whether events are wanted as they come. Otherwise they may all come at the end, which
    /// costs less.
    pub stream: bool,
    /// How it stands in the queue of the model.
    pub queue_key: QueueKey,
    /// Within what time from now it must be answered; it leaves the queue then.
    pub deadline: Option<Duration>,
}

impl<M> GenerateRequest<M> {
    /// A request for one answer, as a whole, of whoever says nothing else.
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
    /// A text, taken as it is.
    Text(String),
}

impl GenerateInput {
    /// What is done with it, in the words of OpenTelemetry's conventions.
    #[must_use]
    pub fn operation_name(&self) -> &'static str {
        match self {
            Self::Chat(_) => "chat",
            Self::Text(_) => "text_completion",
        }
    }

    /// Its size: what reading it costs grows with it.
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
    pub content: String,
    /// The participant's name.
    pub name: Option<String>,
    /// Calls that the assistant made in this turn.
    pub tool_calls: Vec<ToolCall>,
    /// The call that a `tool` turn answers.
    pub tool_call_id: Option<String>,
}

/// A call of a tool by the model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    pub id: String,
    /// The function's name.
    pub name: String,
    /// The arguments, as JSON text.
    pub arguments: String,
}

/// How tokens are drawn and where an answer ends.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// 0: always the most probable token. 1: as the model says.
    pub temperature: f64,
    /// Draw among the most probable tokens that together have this probability; 1 is all.
    pub top_p: f64,
    /// Draw among this many most probable tokens.
    pub top_k: Option<u32>,
    /// Drop tokens less probable than this part of the most probable one.
    pub min_p: Option<f64>,
    /// The same seed, request and model give the same answer.
    pub seed: Option<u64>,
    /// Most tokens of one answer; `None` is as many as the model's context leaves.
    pub max_tokens: Option<u32>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Subtracted from a token's logit for each time it occurred.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit once it has occurred.
    pub presence_penalty: f32,
    /// Divides a token's logit once it has occurred; 1 is none.
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
    pub name: String,
    pub description: Option<String>,
    /// JSON schema of the arguments, as JSON text.
    pub parameters: Option<String>,
}

/// Whether and which tool the model calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// None.
    None,
    /// Some tool.
    Required,
    /// The tool of this name.
    Named(String),
}

/// The form an answer must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutputConstraint {
    /// Some JSON object.
    JsonObject,
    /// JSON that this schema, as JSON text, accepts.
    JsonSchema(String),
}

/// Ask an embedding model for vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedRequest<M = ModelName> {
    pub model: M,
    /// The texts, at least one.
    pub inputs: Vec<String>,
    /// How it stands in the queue of the model.
    pub queue_key: QueueKey,
    /// Within what time from now it must be answered; it leaves the queue then.
    pub deadline: Option<Duration>,
}

/// Vectors, one per text, in the order of the texts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Embeddings {
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts.
    pub prompt_tokens: u32,
    /// What energy they took, where that is known.
    pub energy: Option<EnergyUsage>,
}
