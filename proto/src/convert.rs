//! Messages to core types and back. What arrives is checked: a message of a newer or broken
//! peer is an error, never a panic.

use std::time::Duration;

use flotilla_core::admission::{Priority, Standing};
use flotilla_core::energy::{Sources, Spent};
use flotilla_core::generate as core;
use flotilla_core::{Bytes, Joules, ModelName, artifact};

use crate::v1;

/// Why a message makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    #[error("field '{0}' is missing")]
    Missing(&'static str),
    #[error("field '{field}' {problem}")]
    Invalid {
        field: &'static str,
        problem: String,
    },
}

impl From<ConvertError> for tonic::Status {
    fn from(error: ConvertError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

fn model_name(name: &str) -> Result<ModelName, ConvertError> {
    ModelName::new(name).map_err(|e| ConvertError::Invalid {
        field: "model",
        problem: e.to_string(),
    })
}

impl From<&core::GenerateRequest> for v1::GenerateRequest {
    fn from(request: &core::GenerateRequest) -> Self {
        Self {
            model: request.model.as_str().to_owned(),
            ..generate_request(request, request.standing)
        }
    }
}

/// A request as it travels with a standing, without its model: that is for whoever sends it to fill
/// in.
#[must_use]
pub fn generate_request<M>(
    request: &core::GenerateRequest<M>,
    stands: Standing,
) -> v1::GenerateRequest {
    let (chat, text) = match &request.input {
        core::Input::Chat(messages) => (messages.iter().map(Into::into).collect(), None),
        core::Input::Text(text) => (Vec::new(), Some(text.clone())),
    };
    let (tool_choice, named_tool) = match &request.tool_choice {
        core::ToolChoice::Auto => (v1::ToolChoice::Auto, String::new()),
        core::ToolChoice::None => (v1::ToolChoice::None, String::new()),
        core::ToolChoice::Required => (v1::ToolChoice::Required, String::new()),
        core::ToolChoice::Named(name) => (v1::ToolChoice::Named, name.clone()),
    };
    let (json_object, json_schema) = match &request.constraint {
        None => (false, None),
        Some(core::Constraint::JsonObject) => (true, None),
        Some(core::Constraint::JsonSchema(schema)) => (false, Some(schema.clone())),
    };
    v1::GenerateRequest {
        model: String::new(),
        chat,
        text,
        sampling: Some((&request.sampling).into()),
        tools: request.tools.iter().map(Into::into).collect(),
        tool_choice: tool_choice.into(),
        named_tool,
        json_object,
        json_schema,
        logprobs: request.logprobs,
        choices: request.choices,
        stream: request.stream,
        standing: Some(standing(stands, request.deadline)),
    }
}

/// How a request stands in a queue, as it travels.
fn standing(standing: Standing, deadline: Option<Duration>) -> v1::Standing {
    let priority = match standing.priority {
        Priority::Low => v1::Priority::Low,
        Priority::Normal => v1::Priority::Normal,
        Priority::High => v1::Priority::High,
    };
    v1::Standing {
        priority: priority.into(),
        flow: standing.flow,
        deadline_ms: deadline.map(|left| u32::try_from(left.as_millis()).unwrap_or(u32::MAX)),
    }
}

/// The other way. A priority of a newer peer is taken for a normal one.
fn stands(sent: Option<v1::Standing>) -> (Standing, Option<Duration>) {
    let sent = sent.unwrap_or_default();
    let priority = match sent.priority() {
        v1::Priority::Low => Priority::Low,
        v1::Priority::Normal => Priority::Normal,
        v1::Priority::High => Priority::High,
    };
    let standing = Standing {
        priority,
        flow: sent.flow,
    };
    let deadline = sent.deadline_ms;
    (
        standing,
        deadline.map(|ms| Duration::from_millis(ms.into())),
    )
}

impl TryFrom<v1::GenerateRequest> for core::GenerateRequest {
    type Error = ConvertError;

    fn try_from(request: v1::GenerateRequest) -> Result<Self, ConvertError> {
        let tool_choice = match request.tool_choice() {
            v1::ToolChoice::Auto => core::ToolChoice::Auto,
            v1::ToolChoice::None => core::ToolChoice::None,
            v1::ToolChoice::Required => core::ToolChoice::Required,
            v1::ToolChoice::Named => core::ToolChoice::Named(request.named_tool),
        };
        let input = match request.text {
            Some(text) => core::Input::Text(text),
            None if request.chat.is_empty() => return Err(ConvertError::Missing("chat or text")),
            None => core::Input::Chat(request.chat.into_iter().map(Into::into).collect()),
        };
        let (standing, deadline) = stands(request.standing);
        let constraint = match request.json_schema {
            Some(schema) => Some(core::Constraint::JsonSchema(schema)),
            None => request.json_object.then_some(core::Constraint::JsonObject),
        };
        Ok(Self {
            model: model_name(&request.model)?,
            input,
            sampling: request
                .sampling
                .ok_or(ConvertError::Missing("sampling"))?
                .into(),
            tools: request.tools.into_iter().map(Into::into).collect(),
            tool_choice,
            constraint,
            logprobs: request.logprobs,
            choices: request.choices.max(1),
            stream: request.stream,
            standing,
            deadline,
        })
    }
}

impl From<&core::Sampling> for v1::Sampling {
    fn from(sampling: &core::Sampling) -> Self {
        Self {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            seed: sampling.seed,
            max_tokens: sampling.max_tokens,
            stop: sampling.stop.clone(),
            frequency_penalty: sampling.frequency_penalty,
            presence_penalty: sampling.presence_penalty,
            repetition_penalty: sampling.repetition_penalty,
            logit_bias: sampling.logit_bias.iter().map(|(k, v)| (*k, *v)).collect(),
        }
    }
}

impl From<v1::Sampling> for core::Sampling {
    fn from(sampling: v1::Sampling) -> Self {
        Self {
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            top_k: sampling.top_k,
            min_p: sampling.min_p,
            seed: sampling.seed,
            max_tokens: sampling.max_tokens,
            stop: sampling.stop,
            frequency_penalty: sampling.frequency_penalty,
            presence_penalty: sampling.presence_penalty,
            repetition_penalty: sampling.repetition_penalty,
            logit_bias: sampling.logit_bias.into_iter().collect(),
        }
    }
}

/// Message types whose fields are the core type's, one to one, in both directions.
macro_rules! same_fields {
    ($name:ident { $($plain:ident),* } $(each { $($list:ident),* })?) => {
        impl From<&core::$name> for v1::$name {
            fn from(value: &core::$name) -> Self {
                Self {
                    $($plain: value.$plain.clone(),)*
                    $($($list: value.$list.iter().map(Into::into).collect(),)*)?
                }
            }
        }
        impl From<core::$name> for v1::$name {
            fn from(value: core::$name) -> Self {
                Self {
                    $($plain: value.$plain,)*
                    $($($list: value.$list.into_iter().map(Into::into).collect(),)*)?
                }
            }
        }
        impl From<v1::$name> for core::$name {
            fn from(value: v1::$name) -> Self {
                Self {
                    $($plain: value.$plain,)*
                    $($($list: value.$list.into_iter().map(Into::into).collect(),)*)?
                }
            }
        }
    };
}

same_fields!(Message { role, content, name, tool_call_id } each { tool_calls });
same_fields!(ToolCall {
    id,
    name,
    arguments
});
same_fields!(Tool {
    name,
    description,
    parameters
});
same_fields!(Delta { choice, content, reasoning } each { tool_calls, logprobs });
same_fields!(ToolCallDelta {
    index,
    id,
    name,
    arguments
});
same_fields!(TokenLogprob { token, logprob } each { top });
same_fields!(TokenAlternative { token, logprob });

/// Of what energy costs, nodes know nothing.
fn energy(spent: Spent) -> v1::Energy {
    v1::Energy {
        joules: spent.joules.0,
        sources: spent.sources.bits(),
    }
}

/// `None` for what makes no sense.
fn spent(energy: v1::Energy) -> Option<Spent> {
    let sensible = energy.joules.is_finite() && energy.joules >= 0.0;
    let sources = Sources::from_bits(energy.sources);
    sensible.then(|| Spent::new(Joules(energy.joules), sources))
}

impl From<core::Usage> for v1::Usage {
    fn from(usage: core::Usage) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            timing: usage.timing.map(|timing| v1::Timing {
                queued_us: micros(timing.queued),
                prefill_us: micros(timing.prefill),
                decode_us: micros(timing.decode),
            }),
            energy: usage.energy.map(energy),
        }
    }
}

impl From<v1::Usage> for core::Usage {
    fn from(usage: v1::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            timing: usage.timing.map(|timing| core::Timing {
                queued: Duration::from_micros(timing.queued_us),
                prefill: Duration::from_micros(timing.prefill_us),
                decode: Duration::from_micros(timing.decode_us),
            }),
            energy: usage.energy.and_then(spent),
        }
    }
}

impl From<core::Event> for v1::Event {
    fn from(event: core::Event) -> Self {
        use v1::event::Event;
        let event = match event {
            core::Event::Delta(delta) => Event::Delta(delta.into()),
            core::Event::Finished(finished) => Event::Finished(v1::Finished {
                choice: finished.choice,
                reason: match finished.reason {
                    core::FinishReason::Stop => v1::FinishReason::Stop,
                    core::FinishReason::Length => v1::FinishReason::Length,
                    core::FinishReason::ToolCalls => v1::FinishReason::ToolCalls,
                }
                .into(),
            }),
            core::Event::Usage(usage) => Event::Usage(usage.into()),
        };
        Self { event: Some(event) }
    }
}

impl TryFrom<v1::Event> for core::Event {
    type Error = ConvertError;

    fn try_from(event: v1::Event) -> Result<Self, ConvertError> {
        use v1::event::Event;
        Ok(match event.event.ok_or(ConvertError::Missing("event"))? {
            Event::Delta(delta) => Self::Delta(delta.into()),
            Event::Finished(finished) => Self::Finished(core::Finished {
                choice: finished.choice,
                reason: match finished.reason() {
                    v1::FinishReason::Stop => core::FinishReason::Stop,
                    v1::FinishReason::Length => core::FinishReason::Length,
                    v1::FinishReason::ToolCalls => core::FinishReason::ToolCalls,
                },
            }),
            Event::Usage(usage) => Self::Usage(usage.into()),
        })
    }
}

impl From<&core::EmbedRequest> for v1::EmbedRequest {
    fn from(request: &core::EmbedRequest) -> Self {
        Self {
            model: request.model.as_str().to_owned(),
            inputs: request.inputs.clone(),
            standing: Some(standing(request.standing, request.deadline)),
        }
    }
}

impl TryFrom<v1::EmbedRequest> for core::EmbedRequest {
    type Error = ConvertError;

    fn try_from(request: v1::EmbedRequest) -> Result<Self, ConvertError> {
        let (standing, deadline) = stands(request.standing);
        Ok(Self {
            model: model_name(&request.model)?,
            inputs: request.inputs,
            standing,
            deadline,
        })
    }
}

impl From<core::Embeddings> for v1::EmbedReply {
    fn from(embeddings: core::Embeddings) -> Self {
        let vector = |values| v1::Vector { values };
        Self {
            vectors: embeddings.vectors.into_iter().map(vector).collect(),
            prompt_tokens: embeddings.prompt_tokens,
            energy: embeddings.energy.map(energy),
        }
    }
}

impl From<v1::EmbedReply> for core::Embeddings {
    fn from(reply: v1::EmbedReply) -> Self {
        Self {
            vectors: reply.vectors.into_iter().map(|v| v.values).collect(),
            prompt_tokens: reply.prompt_tokens,
            energy: reply.energy.and_then(spent),
        }
    }
}

impl From<&artifact::File> for v1::File {
    fn from(file: &artifact::File) -> Self {
        Self {
            path: file.path.clone(),
            size: file.size.0,
            sha256: file.sha256.to_string(),
        }
    }
}

impl TryFrom<v1::File> for artifact::File {
    type Error = ConvertError;

    fn try_from(file: v1::File) -> Result<Self, ConvertError> {
        let sha256 = file.sha256.parse().map_err(|e| ConvertError::Invalid {
            field: "sha256",
            problem: format!("{e}"),
        })?;
        Ok(Self {
            path: file.path,
            size: Bytes(file.size),
            sha256,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> core::GenerateRequest {
        core::GenerateRequest {
            model: ModelName::new("m").unwrap(),
            input: core::Input::Chat(vec![core::Message {
                role: "assistant".into(),
                content: "hi".into(),
                name: Some("n".into()),
                tool_calls: vec![core::ToolCall {
                    id: "1".into(),
                    name: "f".into(),
                    arguments: "{}".into(),
                }],
                tool_call_id: Some("2".into()),
            }]),
            sampling: core::Sampling {
                seed: Some(7),
                stop: vec!["x".into()],
                logit_bias: [(3, -1.5)].into(),
                ..Default::default()
            },
            tools: vec![core::Tool {
                name: "f".into(),
                description: None,
                parameters: Some("{}".into()),
            }],
            tool_choice: core::ToolChoice::Named("f".into()),
            constraint: Some(core::Constraint::JsonSchema("{}".into())),
            logprobs: Some(2),
            choices: 3,
            stream: true,
            standing: Standing {
                priority: Priority::High,
                flow: 9,
            },
            deadline: Some(Duration::from_millis(250)),
        }
    }

    #[test]
    fn a_request_survives_the_wire() {
        let before = request();
        let after = core::GenerateRequest::try_from(v1::GenerateRequest::from(&before)).unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn a_request_without_input_is_refused() {
        let mut message = v1::GenerateRequest::from(&request());
        message.chat.clear();
        let refused = core::GenerateRequest::try_from(message);
        assert_eq!(refused, Err(ConvertError::Missing("chat or text")));
    }

    #[test]
    fn events_survive_the_wire() {
        for event in [
            core::Event::Delta(core::Delta {
                content: "a".into(),
                ..Default::default()
            }),
            core::Event::Finished(core::Finished {
                choice: 1,
                reason: core::FinishReason::ToolCalls,
            }),
            core::Event::Usage(core::Usage::default()),
        ] {
            let wire = v1::Event::from(event.clone());
            assert_eq!(core::Event::try_from(wire), Ok(event));
        }
    }
}
