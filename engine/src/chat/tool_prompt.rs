//! Tools for a model whose chat template does not know tools: they are described in the system message, or in the
//! first message of the user.

use flotilla_core::generate::ChatMessage;
use serde_json::Value;

/// Where a chat template that does not know tools has a place for their description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToolPlace {
    /// After the system message, which becomes one if there is none.
    SystemMessage,
    /// Before the text of the first message of the user.
    FirstUserMessage,
}

/// Describes tools, and how to call them, in the form in which calls are read.
pub(crate) fn describe_tools(
    messages: &[ChatMessage],
    tools: &[Value],
    place: ToolPlace,
) -> Vec<ChatMessage> {
    let description = description(tools);
    let mut messages = messages.to_vec();
    if place == ToolPlace::FirstUserMessage {
        let first = messages.iter_mut().find(|message| message.role == "user");
        if let Some(message) = first {
            message.content = format!("{description}\n\n{}", message.content);
        }
        return messages;
    }
    let is_system = |message: &&mut ChatMessage| matches!(&*message.role, "system" | "developer");
    match messages.iter_mut().find(is_system) {
        Some(message) => message.content = format!("{}\n\n{description}", message.content),
        None => messages.insert(
            0,
            ChatMessage {
                role: "system".into(),
                content: description,
                ..ChatMessage::default()
            },
        ),
    }
    messages
}

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
    fn tools_are_described_in_the_system_message() {
        let tools = [json!({"type": "function", "function": {"name": "get_weather"}})];
        let described = |roles: &[&str]| {
            let messages: Vec<_> = roles.iter().map(|role| message(role)).collect();
            let messages = describe_tools(&messages, &tools, ToolPlace::SystemMessage);
            let has_tools = |m: &ChatMessage| m.content.ends_with(r#"{"name":"get_weather"}"#);
            let index = messages.iter().position(has_tools).unwrap();
            (messages.len(), messages[index].role.clone())
        };
        assert_eq!(described(&["system", "user"]), (2, "system".into()));
        assert_eq!(described(&["developer", "user"]), (2, "developer".into()));
        assert_eq!(described(&["user", "assistant"]), (3, "system".into()));
    }

    #[test]
    fn tools_are_described_before_the_first_question() {
        let tools = [json!({"type": "function", "function": {"name": "get_weather"}})];
        let messages = ["user", "assistant", "user"].map(message);
        let described = describe_tools(&messages, &tools, ToolPlace::FirstUserMessage);
        assert_eq!(described.len(), 3);
        let first = &described[0].content;
        assert!(
            first.ends_with("{\"name\":\"get_weather\"}\n\ntext"),
            "{first}"
        );
        assert_eq!(described[2].content, "text");
    }
}
