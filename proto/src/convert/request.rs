//! Generation requests.

use flotilla_core::admission::QueueKey;
use flotilla_core::generate;

use super::queue_key::{parse_queue_key, queue_key_message};
use super::same_fields::same_fields;
use super::{ConvertError, model_name};
use crate::v1;

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
    let (mut chat, mut text, mut tokens) = (Vec::new(), None, None);
    match &request.input {
        generate::GenerateInput::Chat(messages) => {
            chat = messages.iter().map(Into::into).collect();
        }
        generate::GenerateInput::Text(prompt) => text = Some(prompt.clone()),
        generate::GenerateInput::Tokens(ids) => tokens = Some(v1::TokenIds { ids: ids.clone() }),
    }
    let (tool_choice, named_tool) = match &request.tool_choice {
        generate::ToolChoice::Auto => (v1::ToolChoice::Auto, String::new()),
        generate::ToolChoice::None => (v1::ToolChoice::None, String::new()),
        generate::ToolChoice::Required => (v1::ToolChoice::Required, String::new()),
        generate::ToolChoice::Named(name) => (v1::ToolChoice::Named, name.clone()),
    };
    let (json_object, json_schema) = match &request.constraint {
        None => (false, None),
        Some(generate::OutputConstraint::JsonObject) => (true, None),
        Some(generate::OutputConstraint::JsonSchema(format)) => (false, Some(format.into())),
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
        prompt_logprobs: request.prompt_logprobs,
        choices: request.choices,
        stream: request.stream,
        queue_key: Some(queue_key_message(queue_key, request.deadline)),
        tokens,
        parallel_tool_calls: request.parallel_tool_calls,
        reasoning_effort: request.reasoning_effort.clone(),
        chat_template_args: request.chat_template_args.clone(),
        upstream: Some((&request.upstream).into()),
    }
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
        let input = match (request.text, request.tokens) {
            (Some(text), _) => generate::GenerateInput::Text(text),
            (None, Some(tokens)) => generate::GenerateInput::Tokens(tokens.ids),
            (None, None) if request.chat.is_empty() => {
                return Err(ConvertError::Missing("chat, text or tokens"));
            }
            (None, None) => {
                generate::GenerateInput::Chat(request.chat.into_iter().map(Into::into).collect())
            }
        };
        let (queue_key, deadline) = parse_queue_key(request.queue_key);
        let constraint = match request.json_schema {
            Some(format) => Some(generate::OutputConstraint::JsonSchema(format.into())),
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
            parallel_tool_calls: request.parallel_tool_calls,
            reasoning_effort: request.reasoning_effort,
            chat_template_args: request.chat_template_args,
            constraint,
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
            choices: request.choices.max(1),
            stream: request.stream,
            upstream: request.upstream.unwrap_or_default().into(),
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
            stop: sampling.stop.clone().map(|texts| v1::StopTexts { texts }),
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
            stop: sampling.stop.map(|stop| stop.texts),
            frequency_penalty: sampling.frequency_penalty,
            presence_penalty: sampling.presence_penalty,
            repetition_penalty: sampling.repetition_penalty,
            logit_bias: sampling.logit_bias.into_iter().collect(),
        }
    }
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
    parameters,
    strict
});
same_fields!(JsonSchemaFormat {
    name,
    description,
    schema,
    strict
});
same_fields!(UpstreamFields {
    user,
    max_completion_tokens,
    extra
});
