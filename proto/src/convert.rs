//! Converts messages to core types and back. Received messages are validated: one that a newer or
//! faulty peer sent is an error, never a panic.

use std::time::Duration;

use flotilla_core::admission::{Priority, QueueKey};
use flotilla_core::energy::{EnergySources, EnergyUsage};
use flotilla_core::generate;
use flotilla_core::{Bytes, Joules, ModelName, artifact};

use crate::v1;

/// The error for a message that cannot be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A required field is missing.
    #[error("field '{0}' is missing")]
    Missing(&'static str),
    /// A field has an invalid value.
    #[error("field '{field}' {reason}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with the value, as a predicate.
        reason: String,
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
        reason: e.to_string(),
    })
}

impl From<&generate::GenerateRequest> for v1::GenerateRequest {
    fn from(request: &generate::GenerateRequest) -> Self {
        Self {
            model: request.model.as_str().to_owned(),
            ..generate_request(request, request.queue_key)
        }
    }
}

/// Converts a request to a message with the given queue key and an empty `model`. The caller sets the
/// model once it has chosen a replica.
#[must_use]
pub fn generate_request<M>(
    request: &generate::GenerateRequest<M>,
    queue_key: QueueKey,
) -> v1::GenerateRequest {
    let (chat, text) = match &request.input {
        generate::GenerateInput::Chat(messages) => {
            (messages.iter().map(Into::into).collect(), None)
        }
        generate::GenerateInput::Text(text) => (Vec::new(), Some(text.clone())),
    };
    let (tool_choice, named_tool) = match &request.tool_choice {
        generate::ToolChoice::Auto => (v1::ToolChoice::Auto, String::new()),
        generate::ToolChoice::None => (v1::ToolChoice::None, String::new()),
        generate::ToolChoice::Required => (v1::ToolChoice::Required, String::new()),
        generate::ToolChoice::Named(name) => (v1::ToolChoice::Named, name.clone()),
    };
    let (json_object, json_schema) = match &request.constraint {
        None => (false, None),
        Some(generate::OutputConstraint::JsonObject) => (true, None),
        Some(generate::OutputConstraint::JsonSchema(schema)) => (false, Some(schema.clone())),
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
        queue_key: Some(queue_key_message(queue_key, request.deadline)),
    }
}

fn queue_key_message(queue_key: QueueKey, deadline: Option<Duration>) -> v1::QueueKey {
    let priority = match queue_key.priority {
        Priority::Low => v1::Priority::Low,
        Priority::Normal => v1::Priority::Normal,
        Priority::High => v1::Priority::High,
    };
    v1::QueueKey {
        priority: priority.into(),
        fairness_key: queue_key.fairness_key,
        deadline_ms: deadline.map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX)),
    }
}

/// Returns the queue key and the deadline of a message. An unknown priority is read as normal.
fn parse_queue_key(message: Option<v1::QueueKey>) -> (QueueKey, Option<Duration>) {
    let message = message.unwrap_or_default();
    let priority = match message.priority() {
        v1::Priority::Low => Priority::Low,
        v1::Priority::Normal => Priority::Normal,
        v1::Priority::High => Priority::High,
    };
    let queue_key = QueueKey {
        priority,
        fairness_key: message.fairness_key,
    };
    let deadline = message.deadline_ms;
    (
        queue_key,
        deadline.map(|ms| Duration::from_millis(ms.into())),
    )
}

impl TryFrom<v1::GenerateRequest> for generate::GenerateRequest {
    type Error = ConvertError;

    fn try_from(request: v1::GenerateRequest) -> Result<Self, ConvertError> {
        let tool_choice = match request.tool_choice() {
            v1::ToolChoice::Auto => generate::ToolChoice::Auto,
            v1::ToolChoice::None => generate::ToolChoice::None,
            v1::ToolChoice::Required => generate::ToolChoice::Required,
            v1::ToolChoice::Named => generate::ToolChoice::Named(request.named_tool),
        };
        let input = match request.text {
            Some(text) => generate::GenerateInput::Text(text),
            None if request.chat.is_empty() => return Err(ConvertError::Missing("chat or text")),
            None => {
                generate::GenerateInput::Chat(request.chat.into_iter().map(Into::into).collect())
            }
        };
        let (queue_key, deadline) = parse_queue_key(request.queue_key);
        let constraint = match request.json_schema {
            Some(schema) => Some(generate::OutputConstraint::JsonSchema(schema)),
            None => request
                .json_object
                .then_some(generate::OutputConstraint::JsonObject),
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
            queue_key,
            deadline,
        })
    }
}

impl From<&generate::SamplingParams> for v1::SamplingParams {
    fn from(sampling: &generate::SamplingParams) -> Self {
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

impl From<v1::SamplingParams> for generate::SamplingParams {
    fn from(sampling: v1::SamplingParams) -> Self {
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

/// Implements the conversions, in both directions, for messages whose fields have the same names and
/// types as those of the core type. Fields after `each` are lists whose elements are converted too.
/// A macro, because the conversions differ only in the names of the fields.
macro_rules! same_fields {
    ($name:ident { $($plain:ident),* } $(each { $($list:ident),* })?) => {
        impl From<&generate::$name> for v1::$name {
            fn from(value: &generate::$name) -> Self {
                Self {
                    $($plain: value.$plain.clone(),)*
                    $($($list: value.$list.iter().map(Into::into).collect(),)*)?
                }
            }
        }
        impl From<generate::$name> for v1::$name {
            fn from(value: generate::$name) -> Self {
                Self {
                    $($plain: value.$plain,)*
                    $($($list: value.$list.into_iter().map(Into::into).collect(),)*)?
                }
            }
        }
        impl From<v1::$name> for generate::$name {
            fn from(value: v1::$name) -> Self {
                Self {
                    $($plain: value.$plain,)*
                    $($($list: value.$list.into_iter().map(Into::into).collect(),)*)?
                }
            }
        }
    };
}

same_fields!(ChatMessage { role, content, name, tool_call_id } each { tool_calls });
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
same_fields!(ChoiceDelta { choice, content, reasoning } each { tool_calls, logprobs });
same_fields!(ToolCallDelta {
    index,
    id,
    name,
    arguments
});
same_fields!(TokenLogprob { token, logprob } each { top });
same_fields!(TopLogprob { token, logprob });

/// Emissions and price are left out: nodes do not know them.
fn energy_message(energy: EnergyUsage) -> v1::EnergyUsage {
    v1::EnergyUsage {
        joules: energy.joules.0,
        sources: energy.sources.bits(),
    }
}

/// Returns `None` for an energy that is negative or not finite.
fn parse_energy(energy: v1::EnergyUsage) -> Option<EnergyUsage> {
    let valid = energy.joules.is_finite() && energy.joules >= 0.0;
    let sources = EnergySources::from_bits(energy.sources);
    valid.then(|| EnergyUsage::new(Joules(energy.joules), sources))
}

impl From<generate::Usage> for v1::Usage {
    fn from(usage: generate::Usage) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            timing: usage.timing.map(|timing| v1::AnswerTiming {
                queued_us: micros(timing.queued),
                prefill_us: micros(timing.prefill),
                decode_us: micros(timing.decode),
            }),
            energy: usage.energy.map(energy_message),
        }
    }
}

impl From<v1::Usage> for generate::Usage {
    fn from(usage: v1::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            timing: usage.timing.map(|timing| generate::AnswerTiming {
                queued: Duration::from_micros(timing.queued_us),
                prefill: Duration::from_micros(timing.prefill_us),
                decode: Duration::from_micros(timing.decode_us),
            }),
            energy: usage.energy.and_then(parse_energy),
        }
    }
}

impl From<generate::GenerateEvent> for v1::GenerateEvent {
    fn from(event: generate::GenerateEvent) -> Self {
        use v1::generate_event::Event;
        let event = match event {
            generate::GenerateEvent::Delta(delta) => Event::Delta(delta.into()),
            generate::GenerateEvent::Finished(finished) => Event::Finished(v1::ChoiceFinished {
                choice: finished.choice,
                reason: match finished.reason {
                    generate::FinishReason::Stop => v1::FinishReason::Stop,
                    generate::FinishReason::Length => v1::FinishReason::Length,
                    generate::FinishReason::ToolCalls => v1::FinishReason::ToolCalls,
                }
                .into(),
            }),
            generate::GenerateEvent::Usage(usage) => Event::Usage(usage.into()),
        };
        Self { event: Some(event) }
    }
}

impl TryFrom<v1::GenerateEvent> for generate::GenerateEvent {
    type Error = ConvertError;

    fn try_from(event: v1::GenerateEvent) -> Result<Self, ConvertError> {
        use v1::generate_event::Event;
        Ok(match event.event.ok_or(ConvertError::Missing("event"))? {
            Event::Delta(delta) => Self::Delta(delta.into()),
            Event::Finished(finished) => Self::Finished(generate::ChoiceFinished {
                choice: finished.choice,
                reason: match finished.reason() {
                    v1::FinishReason::Stop => generate::FinishReason::Stop,
                    v1::FinishReason::Length => generate::FinishReason::Length,
                    v1::FinishReason::ToolCalls => generate::FinishReason::ToolCalls,
                },
            }),
            Event::Usage(usage) => Self::Usage(usage.into()),
        })
    }
}

impl From<&generate::EmbedRequest> for v1::EmbedRequest {
    fn from(request: &generate::EmbedRequest) -> Self {
        Self {
            model: request.model.as_str().to_owned(),
            inputs: request.inputs.clone(),
            queue_key: Some(queue_key_message(request.queue_key, request.deadline)),
        }
    }
}

impl TryFrom<v1::EmbedRequest> for generate::EmbedRequest {
    type Error = ConvertError;

    fn try_from(request: v1::EmbedRequest) -> Result<Self, ConvertError> {
        let (queue_key, deadline) = parse_queue_key(request.queue_key);
        Ok(Self {
            model: model_name(&request.model)?,
            inputs: request.inputs,
            queue_key,
            deadline,
        })
    }
}

impl From<generate::Embeddings> for v1::EmbedResponse {
    fn from(embeddings: generate::Embeddings) -> Self {
        let vector = |values| v1::Vector { values };
        Self {
            vectors: embeddings.vectors.into_iter().map(vector).collect(),
            prompt_tokens: embeddings.prompt_tokens,
            energy: embeddings.energy.map(energy_message),
        }
    }
}

impl From<v1::EmbedResponse> for generate::Embeddings {
    fn from(reply: v1::EmbedResponse) -> Self {
        Self {
            vectors: reply.vectors.into_iter().map(|v| v.values).collect(),
            prompt_tokens: reply.prompt_tokens,
            energy: reply.energy.and_then(parse_energy),
        }
    }
}

impl From<&artifact::ArtifactFile> for v1::ArtifactFile {
    fn from(file: &artifact::ArtifactFile) -> Self {
        Self {
            path: file.path.clone(),
            size: file.size.0,
            sha256: file.sha256.to_string(),
        }
    }
}

impl TryFrom<v1::ArtifactFile> for artifact::ArtifactFile {
    type Error = ConvertError;

    fn try_from(file: v1::ArtifactFile) -> Result<Self, ConvertError> {
        let sha256 = file.sha256.parse().map_err(|e| ConvertError::Invalid {
            field: "sha256",
            reason: format!("{e}"),
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

    fn request() -> generate::GenerateRequest {
        generate::GenerateRequest {
            model: ModelName::new("m").unwrap(),
            input: generate::GenerateInput::Chat(vec![generate::ChatMessage {
                role: "assistant".into(),
                content: "hi".into(),
                name: Some("n".into()),
                tool_calls: vec![generate::ToolCall {
                    id: "1".into(),
                    name: "f".into(),
                    arguments: "{}".into(),
                }],
                tool_call_id: Some("2".into()),
            }]),
            sampling: generate::SamplingParams {
                seed: Some(7),
                stop: vec!["x".into()],
                logit_bias: [(3, -1.5)].into(),
                ..Default::default()
            },
            tools: vec![generate::Tool {
                name: "f".into(),
                description: None,
                parameters: Some("{}".into()),
            }],
            tool_choice: generate::ToolChoice::Named("f".into()),
            constraint: Some(generate::OutputConstraint::JsonSchema("{}".into())),
            logprobs: Some(2),
            choices: 3,
            stream: true,
            queue_key: QueueKey {
                priority: Priority::High,
                fairness_key: 9,
            },
            deadline: Some(Duration::from_millis(250)),
        }
    }

    #[test]
    fn request_is_equal_after_a_round_trip() {
        let request = request();
        let received =
            generate::GenerateRequest::try_from(v1::GenerateRequest::from(&request)).unwrap();
        assert_eq!(request, received);
    }

    #[test]
    fn request_without_input_is_an_error() {
        let mut message = v1::GenerateRequest::from(&request());
        message.chat.clear();
        let result = generate::GenerateRequest::try_from(message);
        assert_eq!(result, Err(ConvertError::Missing("chat or text")));
    }

    #[test]
    fn events_are_equal_after_a_round_trip() {
        for event in [
            generate::GenerateEvent::Delta(generate::ChoiceDelta {
                content: "a".into(),
                ..Default::default()
            }),
            generate::GenerateEvent::Finished(generate::ChoiceFinished {
                choice: 1,
                reason: generate::FinishReason::ToolCalls,
            }),
            generate::GenerateEvent::Usage(generate::Usage::default()),
        ] {
            let wire = v1::GenerateEvent::from(event.clone());
            assert_eq!(generate::GenerateEvent::try_from(wire), Ok(event));
        }
    }
}
