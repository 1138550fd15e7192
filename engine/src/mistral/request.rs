//! Requests in mistral.rs' format.

use std::sync::Arc;

use either::Either;
use flotilla_core::generate::{
    ChatMessage, EmbedInput, GenerateInput, GenerateRequest, OutputConstraint, RequestError, Tool,
    ToolCall, ToolChoice,
};
use indexmap::IndexMap;
use mistralrs_core::{
    Constraint, CustomLogitsProcessor, MessageContent, RequestMessage, SamplingParams,
    Tool as EngineTool, ToolChoice as EngineToolChoice,
};
use serde_json::{Value, json};

use super::engine_permit::{SequenceRelease, sequence_guard};
use super::journal::TokenJournal;
use super::sampler::TokenSampler;

/// A request to the engine, without the channel for its responses.
pub(super) struct EngineRequest {
    pub(super) messages: RequestMessage,
    pub(super) sampling: SamplingParams,
    pub(super) constraint: Constraint,
    pub(super) tools: Option<Vec<EngineTool>>,
    pub(super) tool_choice: Option<EngineToolChoice>,
    pub(super) processors: Option<Vec<Arc<dyn CustomLogitsProcessor>>>,
    pub(super) return_logprobs: bool,
    pub(super) is_streaming: bool,
}

/// The request for one choice, with the ends that its sequence shares with the caller.
pub(super) struct ChoiceRequest {
    pub(super) engine_request: EngineRequest,
    /// Where the sequence records its tokens.
    pub(super) journal: Arc<TokenJournal>,
    /// Completes when the engine has dropped the sequence.
    pub(super) release: SequenceRelease,
}

/// Creates the engine request for a choice. It always streams: the engine stops computing only when the
/// channel of a stream is closed.
///
/// # Errors
/// When a tool or a schema is invalid.
pub(super) fn choice(request: &GenerateRequest) -> Result<ChoiceRequest, RequestError> {
    let sampling = &request.sampling;
    let with_tools = !request.tools.is_empty() && request.tool_choice != ToolChoice::None;
    // With tools the engine leaves special tokens in the text. The text of the last token is then
    // needed to remove it.
    // A completion needs that of the first token for the space that the engine removes.
    let is_chat = matches!(request.input, GenerateInput::Chat(_));
    let return_logprobs = request.logprobs.is_some() || with_tools || !is_chat;
    let (guard, release) = sequence_guard();
    let sampler = TokenSampler::new(sampling, request.logprobs).with_guard(guard);
    let journal = sampler.journal();
    let engine_request = EngineRequest {
        messages: messages(request),
        sampling: SamplingParams {
            // The engine takes the token that our sampler has made the most probable.
            temperature: Some(0.0),
            // Only the token itself is read from what the engine reports.
            top_n_logprobs: 1,
            frequency_penalty: sampling.frequency_penalty.filter(is_nonzero),
            presence_penalty: sampling.presence_penalty.filter(is_nonzero),
            repetition_penalty: sampling.repetition_penalty,
            max_len: sampling.max_tokens.map(|tokens| tokens as usize),
            ..SamplingParams::neutral()
        },
        constraint: constraint(request)?,
        tools: with_tools
            .then(|| request.tools.iter().map(tool).collect::<Result<_, _>>())
            .transpose()?,
        tool_choice: with_tools.then_some(EngineToolChoice::Auto),
        processors: Some(vec![Arc::new(sampler)]),
        return_logprobs,
        is_streaming: true,
    };
    Ok(ChoiceRequest {
        engine_request,
        journal,
        release,
    })
}

/// Creates the engine request for the embedding of one input.
pub(super) fn embedding(input: EmbedInput) -> EngineRequest {
    EngineRequest {
        messages: match input {
            EmbedInput::Text(prompt) => RequestMessage::Embedding { prompt },
            EmbedInput::Tokens(prompt) => RequestMessage::EmbeddingTokens { prompt },
        },
        sampling: SamplingParams::deterministic(),
        constraint: Constraint::None,
        tools: None,
        tool_choice: None,
        processors: None,
        return_logprobs: false,
        is_streaming: false,
    }
}

fn is_nonzero(penalty: &f32) -> bool {
    *penalty != 0.0
}

fn messages(request: &GenerateRequest) -> RequestMessage {
    match &request.input {
        GenerateInput::Text(text) => RequestMessage::Completion {
            text: text.clone(),
            echo_prompt: false,
            best_of: None,
        },
        GenerateInput::Tokens(tokens) => RequestMessage::CompletionTokens(tokens.clone()),
        GenerateInput::Chat(messages) => RequestMessage::Chat {
            messages: conversation(messages),
            enable_thinking: None,
            reasoning_effort: None,
        },
    }
}

/// Converts the messages of a chat.
pub(super) fn conversation(messages: &[ChatMessage]) -> Vec<IndexMap<String, MessageContent>> {
    messages.iter().map(message).collect()
}

fn message(message: &ChatMessage) -> IndexMap<String, MessageContent> {
    let mut fields = IndexMap::new();
    // Chat templates know only OpenAI's older name of the role.
    let role = match message.role.as_str() {
        "developer" => "system",
        role => role,
    };
    let mut text = |field: &str, value: &str| {
        fields.insert(field.to_owned(), Either::Left(value.to_owned()));
    };
    text("role", role);
    text("content", &message.content);
    if let Some(name) = &message.name {
        text("name", name);
    }
    if let Some(id) = &message.tool_call_id {
        text("tool_call_id", id);
    }
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.iter().map(tool_call).collect();
        fields.insert("tool_calls".to_owned(), Either::Right(calls));
    }
    fields
}

fn tool_call(call: &ToolCall) -> IndexMap<String, Value> {
    // Templates print the arguments as an object if they are one.
    let arguments = serde_json::from_str(&call.arguments)
        .unwrap_or_else(|_| Value::String(call.arguments.clone()));
    IndexMap::from([
        ("id".to_owned(), json!(call.id)),
        ("type".to_owned(), json!("function")),
        (
            "function".to_owned(),
            json!({"name": call.name, "arguments": arguments}),
        ),
    ])
}

fn tool(tool: &Tool) -> Result<EngineTool, RequestError> {
    let parameters = tool.parameters.as_deref().map(parse_schema).transpose()?;
    serde_json::from_value(json!({
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": parameters,
        },
    }))
    .map_err(|e| RequestError::invalid("tools", format!("The tool '{}': {e}.", tool.name)))
}

/// The grammar of the answer: that of a tool call if one is required, else the requested one.
fn constraint(request: &GenerateRequest) -> Result<Constraint, RequestError> {
    let callable: Vec<&Tool> = match &request.tool_choice {
        ToolChoice::Auto | ToolChoice::None => Vec::new(),
        ToolChoice::Required => request.tools.iter().collect(),
        ToolChoice::Named(name) => request.tools.iter().filter(|t| t.name == *name).collect(),
    };
    if !callable.is_empty() {
        let calls = callable.into_iter().map(call_schema);
        let calls = calls.collect::<Result<Vec<_>, _>>()?;
        return Ok(Constraint::JsonSchema(compact(json!({"anyOf": calls}))));
    }
    Ok(match &request.constraint {
        None => Constraint::None,
        Some(OutputConstraint::JsonObject) => {
            Constraint::JsonSchema(compact(json!({"type": "object"})))
        }
        Some(OutputConstraint::JsonSchema(format)) => {
            Constraint::JsonSchema(compact(parse_schema(&format.schema)?))
        }
    })
}

/// Makes the grammar accept only one way of spacing. If any white space is allowed, a small model can
/// fill its whole answer with it.
fn compact(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        fields.insert(
            "x-guidance".to_owned(),
            json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}),
        );
    }
    schema
}

/// The schema of a tool call in the form that mistral.rs recognises.
fn call_schema(tool: &Tool) -> Result<Value, RequestError> {
    let parameters = match &tool.parameters {
        Some(schema) => parse_schema(schema)?,
        None => json!({"type": "object"}),
    };
    Ok(json!({
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": false,
    }))
}

fn parse_schema(schema: &str) -> Result<Value, RequestError> {
    serde_json::from_str(schema).map_err(|e| {
        RequestError::invalid("response_format", format!("The schema is not JSON: {e}."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::ModelName;

    fn request(tool_choice: ToolChoice) -> GenerateRequest {
        GenerateRequest {
            tools: vec![Tool {
                name: "look_up".into(),
                ..Tool::default()
            }],
            tool_choice,
            ..GenerateRequest::new(
                ModelName::new("m").unwrap(),
                GenerateInput::Chat(vec![ChatMessage {
                    role: "developer".into(),
                    content: "hi".into(),
                    ..ChatMessage::default()
                }]),
            )
        }
    }

    #[test]
    fn required_tool_call_is_a_constraint_and_an_optional_one_is_not() {
        let forced = choice(&request(ToolChoice::Named("look_up".into()))).unwrap();
        let Constraint::JsonSchema(schema) = forced.engine_request.constraint else {
            panic!("no schema");
        };
        assert_eq!(schema["anyOf"][0]["properties"]["name"]["const"], "look_up");
        let free = choice(&request(ToolChoice::Auto)).unwrap();
        assert!(matches!(free.engine_request.constraint, Constraint::None));
        assert!(free.engine_request.tools.is_some());
        let none = choice(&request(ToolChoice::None)).unwrap();
        assert!(none.engine_request.tools.is_none());
    }

    #[test]
    fn developer_role_becomes_system() {
        let RequestMessage::Chat { messages, .. } = messages(&request(ToolChoice::Auto)) else {
            panic!("not a chat");
        };
        assert_eq!(messages[0]["role"], Either::Left("system".to_owned()));
    }
}
