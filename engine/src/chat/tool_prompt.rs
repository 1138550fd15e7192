//! Tools for a model whose chat template does not know tools: they are described in the conversation.

use flotilla_core::generate::ChatMessage;
use serde_json::Value;

/// Describes tools, and how to call them, in the form in which calls are read.
fn description(tools: &[Value]) -> String {
    let mut text = String::from(
        "You can call these functions. To call one, answer with nothing but a JSON object with its name and \
         its arguments, as in {\"name\": \"function\", \"arguments\": {\"argument\": \"value\"}}.",
    );
    for tool in tools {
        text.push('\n');
        text.push_str(&tool["function"].to_string());
    }
    text
}

/// Puts a description of `tools` into a conversation: at the end of its system message, or else before the
/// first message of the user, since not every template takes a system message.
pub(crate) fn describe_tools(messages: &mut Vec<ChatMessage>, tools: &[Value]) {
    let text = description(tools);
    let position = |role: &[&str]| messages.iter().position(|m| role.contains(&&*m.role));
    if let Some(index) = position(&["system", "developer"]) {
        let content = &mut messages[index].content;
        *content = format!("{content}\n\n{text}");
    } else if let Some(index) = position(&["user"]) {
        let content = &mut messages[index].content;
        *content = format!("{text}\n\n{content}");
    } else {
        let message = ChatMessage {
            role: "user".into(),
            content: text,
            ..ChatMessage::default()
        };
        messages.insert(0, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(role: &str) -> ChatMessage {
        ChatMessage {
            role: role.into(),
            content: "text".into(),
            ..ChatMessage::default()
        }
    }

    #[test]
    fn tools_are_described_in_a_message_that_every_template_prints() {
        let tools = [json!({"type": "function", "function": {"name": "get_weather"}})];
        let described = |roles: &[&str]| {
            let mut messages = roles.iter().map(|role| message(role)).collect();
            describe_tools(&mut messages, &tools);
            let has_tools = |m: &ChatMessage| m.content.contains(r#"{"name":"get_weather"}"#);
            let index = messages.iter().position(has_tools).unwrap();
            (messages.len(), messages[index].role.clone(), index)
        };
        assert_eq!(described(&["system", "user"]), (2, "system".into(), 0));
        assert_eq!(described(&["assistant", "user"]), (2, "user".into(), 1));
        assert_eq!(described(&["assistant"]), (2, "user".into(), 0));
    }
}
