//! A chat request as clients send it, and its checks.

use flotilla_core::admission::QueueKey;
use flotilla_core::generate::{
    ChatMessage, GenerateInput, GenerateRequest, OutputConstraint, RequestError, Route, Tool,
    ToolCall, ToolChoice,
};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::number::within;
use crate::route::{RoutingFields, route, session};
use crate::sampling::SamplingFields;

/// Most alternatives per token that can be asked for.
const MAX_TOP_LOGPROBS: u32 = 20;

/// The body of `/v1/chat/completions`, without the fields of [`SamplingFields`]. Fields that
/// only matter to OpenAI's own service (`user`, `store`, `metadata`, …) are accepted and
/// ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct ChatBody {
    model: String,
    messages: Vec<MessageField>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    max_completion_tokens: Option<u32>,
    #[serde(default)]
    logprobs: Option<bool>,
    #[serde(default)]
    top_logprobs: Option<u32>,
    #[serde(default)]
    response_format: Option<ResponseFormat>,
    #[serde(default)]
    tools: Option<Vec<ToolField>>,
    #[serde(default)]
    tool_choice: Option<ToolChoiceField>,
    #[serde(default)]
    flotilla: Option<RoutingFields>,
    /// OpenAI's word for what shall find the same memory again: a session.
    #[serde(default)]
    prompt_cache_key: Option<String>,
    #[serde(default)]
    modalities: Option<Vec<String>>,
    /// Deprecated by OpenAI in favour of `tools`; refused rather than ignored.
    #[serde(default)]
    functions: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    function_call: Option<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct StreamOptions {
    #[serde(default)]
    pub(crate) include_usage: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct MessageField {
    role: String,
    #[serde(default)]
    content: Option<Content>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<ToolCallField>>,
    #[serde(default)]
    tool_call_id: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a string or an array of content parts")]
enum Content {
    Text(String),
    Parts(Vec<ContentPart>),
}

#[derive(Debug, Deserialize)]
struct ContentPart {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ToolCallField {
    id: String,
    function: CalledField,
}

#[derive(Debug, Deserialize)]
struct CalledField {
    name: String,
    arguments: String,
}

#[derive(Debug, Deserialize)]
struct ToolField {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    function: Option<FunctionField>,
}

#[derive(Debug, Deserialize)]
struct FunctionField {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    parameters: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "'none', 'auto', 'required' or {\"type\": \"function\", \"function\": {\"name\": …}}"
)]
enum ToolChoiceField {
    Word(String),
    Function { function: NamedFunction },
}

#[derive(Debug, Deserialize)]
struct NamedFunction {
    name: String,
}

#[derive(Debug, Deserialize)]
struct ResponseFormat {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    json_schema: Option<SchemaField>,
}

#[derive(Debug, Deserialize)]
struct SchemaField {
    #[serde(default)]
    schema: Option<Box<RawValue>>,
}

impl ChatBody {
    /// Whether the stream shall end with a usage frame.
    pub(crate) fn include_usage(&self) -> bool {
        let options = self.stream_options.as_ref();
        options.and_then(|o| o.include_usage).unwrap_or(false)
    }

    /// Checks everything and fills in the defaults.
    pub(crate) fn check(
        self,
        sampling: SamplingFields,
        headers: &HeaderMap,
    ) -> Result<GenerateRequest<Route>, RequestError> {
        let mut model = route(&self.model, self.flotilla, headers)?;
        if let Some(key) = &self.prompt_cache_key {
            model.session.get_or_insert_with(|| session(key));
        }
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(RequestError::invalid(
                "stream_options",
                "'stream_options' is only allowed when 'stream' is true.",
            ));
        }
        if self.functions.is_some() || self.function_call.is_some() {
            return Err(RequestError::invalid(
                "functions",
                "'functions' and 'function_call' are not supported: use 'tools' and 'tool_choice'.",
            ));
        }
        if self
            .modalities
            .is_some_and(|m| m.iter().any(|m| m != "text"))
        {
            return Err(RequestError::invalid(
                "modalities",
                "Only the modality 'text' is supported.",
            ));
        }
        let messages = check_messages(self.messages)?;
        let tools = check_tools(self.tools.unwrap_or_default())?;
        let tool_choice = check_tool_choice(self.tool_choice, &tools)?;
        let constraint = self
            .response_format
            .map(check_format)
            .transpose()?
            .flatten();
        let logprobs = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (true, top) => Some(within(
                "top_logprobs",
                top.unwrap_or(0),
                0..=MAX_TOP_LOGPROBS,
            )?),
            (false, Some(_)) => {
                return Err(RequestError::invalid(
                    "top_logprobs",
                    "'top_logprobs' is only allowed when 'logprobs' is true.",
                ));
            }
            (false, None) => None,
        };
        let max_tokens = self
            .max_completion_tokens
            .map(|tokens| ("max_completion_tokens", tokens))
            .or(self.max_tokens.map(|tokens| ("max_tokens", tokens)));
        Ok(GenerateRequest {
            model,
            input: GenerateInput::Chat(messages),
            choices: sampling.choices()?,
            sampling: sampling.check(max_tokens)?,
            tools,
            tool_choice,
            constraint,
            logprobs,
            stream,
            queue_key: QueueKey::default(),
            deadline: None,
        })
    }
}

/// Checks a conversation.
pub(crate) fn check_messages(
    messages: Vec<MessageField>,
) -> Result<Vec<ChatMessage>, RequestError> {
    if messages.is_empty() {
        return Err(RequestError::invalid(
            "messages",
            "'messages' must hold at least one message.",
        ));
    }
    let messages = messages.into_iter().enumerate();
    messages
        .map(|(i, message)| check_message(i, message))
        .collect()
}

fn check_message(i: usize, message: MessageField) -> Result<ChatMessage, RequestError> {
    let at = |field: &str| format!("messages[{i}].{field}");
    let role = message.role;
    if !["system", "developer", "user", "assistant", "tool"].contains(&role.as_str()) {
        return Err(RequestError::invalid(
            at("role"),
            format!(
                "'{role}' is not a role: use 'system', 'developer', 'user', 'assistant' or 'tool'."
            ),
        ));
    }
    let tool_calls: Vec<ToolCall> = message
        .tool_calls
        .unwrap_or_default()
        .into_iter()
        .map(|call| ToolCall {
            id: call.id,
            name: call.function.name,
            arguments: call.function.arguments,
        })
        .collect();
    if !tool_calls.is_empty() && role != "assistant" {
        return Err(RequestError::invalid(
            at("tool_calls"),
            "Only messages of the role 'assistant' have 'tool_calls'.",
        ));
    }
    if role == "tool" && message.tool_call_id.is_none() {
        return Err(RequestError::invalid(
            at("tool_call_id"),
            "Messages of the role 'tool' need a 'tool_call_id'.",
        ));
    }
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => join_parts(i, parts)?,
        // A turn that only calls tools says nothing.
        None if role == "assistant" => String::new(),
        None => {
            return Err(RequestError::invalid(
                at("content"),
                "The message needs a 'content'.",
            ));
        }
    };
    Ok(ChatMessage {
        role,
        content,
        name: message.name,
        tool_calls,
        tool_call_id: message.tool_call_id,
    })
}

fn join_parts(i: usize, parts: Vec<ContentPart>) -> Result<String, RequestError> {
    let mut joined = String::new();
    for (j, part) in parts.into_iter().enumerate() {
        let (kind, text) = (part.kind, part.text);
        match text {
            Some(text) if kind == "text" => joined.push_str(&text),
            _ => {
                return Err(RequestError::invalid(
                    format!("messages[{i}].content[{j}]"),
                    format!(
                        "A content part must be {{\"type\": \"text\", \"text\": …}}; '{kind}' is not supported."
                    ),
                ));
            }
        }
    }
    Ok(joined)
}

fn check_tools(tools: Vec<ToolField>) -> Result<Vec<Tool>, RequestError> {
    tools
        .into_iter()
        .enumerate()
        .map(|(i, tool)| {
            let function = match tool.function {
                Some(function) if tool.kind == "function" => function,
                _ => {
                    return Err(RequestError::invalid(
                        format!("tools[{i}]"),
                        "A tool must be {\"type\": \"function\", \"function\": {\"name\": …}}.",
                    ));
                }
            };
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            if function.name.is_empty() || !function.name.chars().all(allowed) {
                return Err(RequestError::invalid(
                    format!("tools[{i}].function.name"),
                    "A function's name is made of letters, digits, '_', '-' and '.'.",
                ));
            }
            let parameters = function.parameters.map(|raw| raw.get().to_owned());
            if parameters
                .as_deref()
                .is_some_and(|json| !json.starts_with('{'))
            {
                return Err(RequestError::invalid(
                    format!("tools[{i}].function.parameters"),
                    "The parameters must be a JSON schema: an object.",
                ));
            }
            Ok(Tool {
                name: function.name,
                description: function.description,
                parameters,
            })
        })
        .collect()
}

fn check_tool_choice(
    choice: Option<ToolChoiceField>,
    tools: &[Tool],
) -> Result<ToolChoice, RequestError> {
    let wrong = |message: String| RequestError::invalid("tool_choice", message);
    let choice = match choice {
        None => return Ok(ToolChoice::Auto),
        Some(ToolChoiceField::Word(word)) => match word.as_str() {
            "none" => return Ok(ToolChoice::None),
            "auto" => return Ok(ToolChoice::Auto),
            "required" => ToolChoice::Required,
            _ => {
                return Err(wrong(format!(
                    "'{word}' is not a tool choice: use 'none', 'auto', 'required' or an object that names a function."
                )));
            }
        },
        Some(ToolChoiceField::Function { function }) => {
            if !tools.iter().any(|tool| tool.name == function.name) {
                return Err(wrong(format!(
                    "'tools' has no function '{}'.",
                    function.name
                )));
            }
            ToolChoice::Named(function.name)
        }
    };
    if tools.is_empty() {
        return Err(wrong("'tool_choice' needs 'tools'.".into()));
    }
    Ok(choice)
}

fn check_format(format: ResponseFormat) -> Result<Option<OutputConstraint>, RequestError> {
    match format.kind.as_str() {
        "text" => Ok(None),
        "json_object" => Ok(Some(OutputConstraint::JsonObject)),
        "json_schema" => {
            let schema = format.json_schema.and_then(|field| field.schema);
            match schema {
                Some(schema) if schema.get().starts_with('{') => {
                    Ok(Some(OutputConstraint::JsonSchema(schema.get().to_owned())))
                }
                _ => Err(RequestError::invalid(
                    "response_format.json_schema.schema",
                    "The response format 'json_schema' needs a schema: a JSON object.",
                )),
            }
        }
        other => Err(RequestError::invalid(
            "response_format.type",
            format!(
                "'{other}' is not a response format: use 'text', 'json_object' or 'json_schema'."
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str) -> Result<GenerateRequest<Route>, RequestError> {
        let body: ChatBody = serde_json::from_str(json).unwrap();
        body.check(serde_json::from_str(json).unwrap(), &HeaderMap::new())
    }

    fn with(fields: &str) -> String {
        format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "hi"}}]{fields}}}"#)
    }

    #[test]
    fn a_plain_request_passes() {
        let request = check(&with("")).unwrap();
        assert_eq!(request.choices, 1);
        assert!(!request.stream);
        let GenerateInput::Chat(messages) = request.input else {
            panic!("not a chat");
        };
        assert_eq!(messages[0].content, "hi");
    }

    #[test]
    fn each_wrong_field_is_named() {
        let message = |m: &str| format!(r#"{{"model": "m", "messages": [{m}]}}"#);
        for (json, field) in [
            (r#"{"model": "m", "messages": []}"#.to_owned(), "messages"),
            (
                message(r#"{"role": "robot", "content": ""}"#),
                "messages[0].role",
            ),
            (message(r#"{"role": "user"}"#), "messages[0].content"),
            (
                message(r#"{"role": "tool", "content": "1"}"#),
                "messages[0].tool_call_id",
            ),
            (
                message(r#"{"role": "user", "content": [{"type": "image_url"}]}"#),
                "messages[0].content[0]",
            ),
            (with(r#", "n": 0"#), "n"),
            (with(r#", "max_tokens": 0"#), "max_tokens"),
            (with(r#", "top_logprobs": 2"#), "top_logprobs"),
            (
                with(r#", "logprobs": true, "top_logprobs": 21"#),
                "top_logprobs",
            ),
            (with(r#", "stream_options": {}"#), "stream_options"),
            (with(r#", "tool_choice": "required""#), "tool_choice"),
            (with(r#", "tool_choice": "sometimes""#), "tool_choice"),
            (with(r#", "tools": [{"type": "x"}]"#), "tools[0]"),
            (with(r#", "functions": []"#), "functions"),
            (with(r#", "modalities": ["audio"]"#), "modalities"),
            (
                with(r#", "response_format": {"type": "xml"}"#),
                "response_format.type",
            ),
            (
                with(r#", "response_format": {"type": "json_schema"}"#),
                "response_format.json_schema.schema",
            ),
        ] {
            let error = check(&json).unwrap_err();
            let RequestError::Invalid { param, .. } = error else {
                panic!("{json}: {error:?}");
            };
            assert_eq!(param.as_deref(), Some(field), "{json}");
        }
    }

    #[test]
    fn parts_are_joined() {
        let request = check(
            r#"{"model": "m", "messages": [{"role": "user", "content":
               [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}"#,
        );
        let GenerateInput::Chat(messages) = request.unwrap().input else {
            panic!("not a chat");
        };
        assert_eq!(messages[0].content, "ab");
    }
}
