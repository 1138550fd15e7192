//! Responses in OpenAI's format.

use std::collections::BTreeMap;

use flotilla_core::generate::{
    ChoiceDelta, Embeddings, FinishReason, TokenLogprob, ToolCallDelta, TopLogprob,
};
use serde::Deserialize;
use serde_json::Value;

/// A chunk of a streamed chat or text completion. Every field may be missing.
#[derive(Deserialize)]
pub(super) struct UpstreamChunk {
    #[serde(default)]
    pub(super) choices: Vec<UpstreamChoice>,
    pub(super) usage: Option<UsageField>,
    /// A failure after the answer has started.
    pub(super) error: Option<Value>,
}

/// What a chunk adds to one choice.
#[derive(Deserialize)]
pub(super) struct UpstreamChoice {
    #[serde(default)]
    pub(super) index: u32,
    /// The addition to a chat completion.
    delta: Option<DeltaField>,
    /// The addition to a text completion.
    text: Option<String>,
    logprobs: Option<LogprobsField>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct DeltaField {
    content: Option<String>,
    #[serde(alias = "reasoning")]
    reasoning_content: Option<String>,
    refusal: Option<String>,
    tool_calls: Option<Vec<CallField>>,
}

#[derive(Deserialize)]
struct CallField {
    #[serde(default)]
    index: u32,
    id: Option<String>,
    function: Option<UpstreamFunctionField>,
}

#[derive(Deserialize)]
struct UpstreamFunctionField {
    name: Option<String>,
    arguments: Option<String>,
}

/// Log-probabilities. A chat completion has `content`, a text completion the parallel lists.
#[derive(Deserialize)]
struct LogprobsField {
    content: Option<Vec<LogprobField>>,
    tokens: Option<Vec<String>>,
    token_logprobs: Option<Vec<Option<f32>>>,
    top_logprobs: Option<Vec<Option<BTreeMap<String, f32>>>>,
}

#[derive(Deserialize)]
struct LogprobField {
    token: String,
    logprob: f32,
    #[serde(default)]
    top_logprobs: Vec<TopLogprobField>,
}

#[derive(Deserialize)]
struct TopLogprobField {
    token: String,
    logprob: f32,
}

/// The tokens of a request.
#[derive(Clone, Copy, Deserialize)]
pub(super) struct UsageField {
    #[serde(default)]
    pub(super) prompt_tokens: u32,
    #[serde(default)]
    pub(super) completion_tokens: u32,
}

/// The response to a request for embeddings.
#[derive(Deserialize)]
pub(super) struct EmbeddingsReply {
    data: Vec<EmbeddingItem>,
    usage: Option<UsageField>,
}

#[derive(Deserialize)]
struct EmbeddingItem {
    embedding: Vec<f32>,
}

impl EmbeddingsReply {
    pub(super) fn into_embeddings(self) -> Embeddings {
        Embeddings {
            vectors: self.data.into_iter().map(|item| item.embedding).collect(),
            prompt_tokens: self.usage.map_or(0, |usage| usage.prompt_tokens),
            energy: None,
        }
    }
}

impl UpstreamChoice {
    /// Why the choice ends with this chunk. `None` if it goes on.
    pub(super) fn finish_reason(&self) -> Option<FinishReason> {
        let reason = self.finish_reason.as_deref()?;
        Some(match reason {
            "length" => FinishReason::Length,
            "tool_calls" | "function_call" => FinishReason::ToolCalls,
            "content_filter" => FinishReason::ContentFilter,
            _ => FinishReason::Stop,
        })
    }

    /// What the chunk adds to the choice. `None` if it adds nothing.
    pub(super) fn into_delta(self) -> Option<ChoiceDelta> {
        let field = self.delta.unwrap_or_default();
        let calls = field.tool_calls.unwrap_or_default();
        let delta = ChoiceDelta {
            choice: self.index,
            content: field.content.or(self.text).unwrap_or_default(),
            reasoning: field.reasoning_content.unwrap_or_default(),
            refusal: field.refusal.unwrap_or_default(),
            tool_calls: calls.into_iter().map(CallField::into_delta).collect(),
            logprobs: self
                .logprobs
                .map(LogprobsField::into_tokens)
                .unwrap_or_default(),
        };
        let empty = ChoiceDelta {
            choice: delta.choice,
            ..ChoiceDelta::default()
        };
        (delta != empty).then_some(delta)
    }
}

impl CallField {
    fn into_delta(self) -> ToolCallDelta {
        let (name, arguments) = match self.function {
            Some(function) => (function.name, function.arguments),
            None => (None, None),
        };
        ToolCallDelta {
            index: self.index,
            id: self.id,
            name,
            arguments: arguments.unwrap_or_default(),
        }
    }
}

impl LogprobsField {
    fn into_tokens(self) -> Vec<TokenLogprob> {
        if let Some(content) = self.content {
            return content.into_iter().map(LogprobField::into_token).collect();
        }
        let mut logprobs = self.token_logprobs.unwrap_or_default().into_iter();
        let mut tops = self.top_logprobs.unwrap_or_default().into_iter();
        let tokens = self.tokens.unwrap_or_default().into_iter();
        let tokens = tokens.map(|token| {
            let top = tops.next().flatten().unwrap_or_default().into_iter();
            TokenLogprob {
                token,
                logprob: logprobs.next().flatten().unwrap_or_default(),
                top: top
                    .map(|(token, logprob)| TopLogprob {
                        token,
                        logprob,
                        bytes: Vec::new(),
                    })
                    .collect(),
                bytes: Vec::new(),
            }
        });
        tokens.collect()
    }
}

impl LogprobField {
    fn into_token(self) -> TokenLogprob {
        let top = self.top_logprobs.into_iter().map(|top| TopLogprob {
            token: top.token,
            logprob: top.logprob,
            bytes: Vec::new(),
        });
        TokenLogprob {
            token: self.token,
            logprob: self.logprob,
            top: top.collect(),
            bytes: Vec::new(),
        }
    }
}
