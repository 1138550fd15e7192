//! Messages and tools in mistral.rs' format.

use either::Either;
use flotilla_core::generate::{ChatMessage, RequestError, Tool, ToolCall};
use indexmap::IndexMap;
use mistralrs_core::{MessageContent, Tool as EngineTool};
use serde_json::{Value, json};

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

/// Converts the tool at `index` of the request.
///
/// # Errors
/// When its parameters are no JSON object.
pub(super) fn tool(tool: &Tool, index: usize) -> Result<EngineTool, RequestError> {
    let invalid = |problem: serde_json::Error| {
        RequestError::invalid(
            format!("tools[{index}].function.parameters"),
            format!(
                "The parameters of '{}' cannot be read: {problem}.",
                tool.name
            ),
        )
    };
    let parameters = tool
        .parameters
        .as_deref()
        .map(serde_json::from_str::<Value>);
    let parameters = parameters.transpose().map_err(invalid)?;
    serde_json::from_value(json!({
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": parameters,
        },
    }))
    .map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn developer_role_becomes_system() {
        let messages = conversation(&[ChatMessage {
            role: "developer".into(),
            content: "hi".into(),
            ..ChatMessage::default()
        }]);
        assert_eq!(messages[0]["role"], Either::Left("system".to_owned()));
    }

    #[test]
    fn parameters_that_are_no_object_are_refused_with_their_path() {
        let with = |parameters: &str| {
            let parameters = Some(parameters.to_owned());
            tool(
                &Tool {
                    name: "f".into(),
                    parameters,
                    ..Tool::default()
                },
                3,
            )
        };
        assert!(with(r#"{"type": "object"}"#).is_ok());
        let deep = format!("{}{}", r#"{"a":"#.repeat(200), "}".repeat(200));
        for parameters in ["[]", "{", &deep] {
            let Err(RequestError::Invalid { param, .. }) = with(parameters) else {
                panic!("{parameters} is accepted");
            };
            assert_eq!(param.as_deref(), Some("tools[3].function.parameters"));
        }
    }
}
