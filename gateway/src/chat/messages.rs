//! Validates the messages of a chat.

use flotilla_core::generate::{ChatMessage, RequestError, ToolCall};

use super::fields::{ContentPart, MessageContent, MessageField};

/// The roles that a message can have.
const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Validates a conversation.
///
/// # Errors
/// [`RequestError::Invalid`] with the path of the first invalid field.
pub(crate) fn validate_messages(
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
        .map(|(i, message)| validate_message(i, message))
        .collect()
}

fn validate_message(i: usize, message: MessageField) -> Result<ChatMessage, RequestError> {
    let path = |field: &str| format!("messages[{i}].{field}");
    let role = message.role;
    if !ROLES.contains(&role.as_str()) {
        return Err(RequestError::invalid(
            path("role"),
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
            path("tool_calls"),
            "Only messages of the role 'assistant' can have 'tool_calls'.",
        ));
    }
    if role == "tool" && message.tool_call_id.is_none() {
        return Err(RequestError::invalid(
            path("tool_call_id"),
            "Messages of the role 'tool' need a 'tool_call_id'.",
        ));
    }
    let content = match message.content {
        Some(MessageContent::Text(text)) => text,
        Some(MessageContent::Parts(parts)) => join_parts(i, &role, parts)?,
        // An assistant message that only calls tools has no content, and that of a refusal has it elsewhere.
        None if role == "assistant" => message.refusal.unwrap_or_default(),
        None => {
            return Err(RequestError::invalid(
                path("content"),
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

/// Joins the texts of content parts. The model reads its own refusal as the text that it is.
fn join_parts(i: usize, role: &str, parts: Vec<ContentPart>) -> Result<String, RequestError> {
    let mut joined = String::new();
    for (j, part) in parts.into_iter().enumerate() {
        let text = match part.kind.as_str() {
            "text" => part.text,
            "refusal" if role == "assistant" => part.refusal,
            _ => None,
        };
        match text {
            Some(text) => joined.push_str(&text),
            None => {
                return Err(RequestError::invalid(
                    format!("messages[{i}].content[{j}]"),
                    format!(
                        "A content part must be {{\"type\": \"text\", \"text\": …}}, or {{\"type\": \"refusal\", \"refusal\": …}} of an assistant; it is of the type '{}'.",
                        part.kind
                    ),
                ));
            }
        }
    }
    Ok(joined)
}
