//! Finds prompts that are far too long for a context without counting all their tokens.

use flotilla_core::generate::{ChatMessage, Tool};

use crate::chat::template::uses;

/// The bytes that are counted at once. Counting stops after the piece with which the limit is exceeded.
const PIECE_BYTES: usize = 16 * 1024;
/// How many tokens a piece may have more on its own than as a part of its text: tokens that would span
/// the cut, and a space that some vocabularies add to the beginning of every text.
const TOKENS_PER_CUT: usize = 8;

/// The texts of a conversation that its prompt has as they are, one for each message.
pub(crate) fn contents(messages: &[ChatMessage]) -> impl Iterator<Item = &str> {
    messages.iter().map(|message| {
        let content = message.content.as_str();
        // Templates leave out what the model thought, and the white space around a message.
        let visible = match message.role.as_str() {
            "assistant" => content.rsplit("</think>").next(),
            _ => None,
        };
        visible.unwrap_or(content).trim()
    })
}

/// The names, calls and tools that a prompt has in some form: the template decides how much of them it
/// prints, and with which spacing.
pub(crate) fn printed_parts<'a>(
    messages: &'a [ChatMessage],
    tools: &'a [Tool],
    template: &str,
) -> Vec<&'a str> {
    let mut parts: Vec<&str> = Vec::new();
    if uses(template, "name") {
        parts.extend(messages.iter().filter_map(|m| m.name.as_deref()));
    }
    if uses(template, "tool_call_id") {
        parts.extend(messages.iter().filter_map(|m| m.tool_call_id.as_deref()));
    }
    if uses(template, "tool_calls") {
        let calls = messages.iter().flat_map(|message| &message.tool_calls);
        parts.extend(calls.flat_map(|call| [&*call.id, &*call.name, &*call.arguments]));
    }
    if uses(template, "tools") {
        parts.extend(tools.iter().map(|tool| tool.name.as_str()));
        parts.extend(tools.iter().filter_map(|tool| tool.description.as_deref()));
        parts.extend(tools.iter().filter_map(|tool| tool.parameters.as_deref()));
    }
    parts
}

/// Whether texts certainly have more than `limit` tokens together, each at least one. `count` returns
/// the tokens of a text; a text that it cannot count has one.
pub(crate) fn exceeds<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    limit: usize,
    count: impl Fn(&str) -> Option<usize>,
) -> bool {
    let mut tokens: usize = 0;
    for text in texts {
        let before = tokens;
        for piece in pieces(text) {
            let cut_tokens = if piece.len() < text.len() {
                TOKENS_PER_CUT
            } else {
                0
            };
            tokens += count(piece).unwrap_or(0).saturating_sub(cut_tokens);
            if tokens > limit {
                return true;
            }
        }
        tokens = tokens.max(before + 1);
    }
    tokens > limit
}

/// Cuts a text into pieces, where possible before white space.
fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        if text.is_empty() {
            return None;
        }
        let (piece, rest) = text.split_at(cut(text));
        text = rest;
        Some(piece)
    })
}

fn cut(text: &str) -> usize {
    if text.len() <= PIECE_BYTES {
        return text.len();
    }
    let end = text.floor_char_boundary(PIECE_BYTES);
    let space = text[..end].rfind(char::is_whitespace);
    space.filter(|space| *space > 0).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::ToolCall;
    use std::cell::Cell;

    #[test]
    fn counting_stops_soon_after_the_limit() {
        let text = "word ".repeat(800_000);
        let counted = Cell::new(0);
        let count = |piece: &str| {
            counted.set(counted.get() + piece.len());
            Some(piece.split_whitespace().count())
        };
        assert!(exceeds([text.as_str()], 512, count));
        assert!(counted.get() <= PIECE_BYTES);
        counted.set(0);
        assert!(!exceeds([text.as_str()], 800_000, count));
        assert_eq!(counted.get(), text.len());
    }

    #[test]
    fn texts_are_counted_together() {
        let text = "a ".repeat(100);
        let count = |piece: &str| Some(piece.split_whitespace().count());
        assert!(exceeds([text.as_str(); 3], 299, count));
        assert!(!exceeds([text.as_str(); 3], 300, count));
    }

    #[test]
    fn many_short_texts_are_many_tokens() {
        let count = |piece: &str| Some(piece.split_whitespace().count());
        assert!(exceeds(["one two"; 100], 199, count));
        assert!(!exceeds(["one two"; 100], 200, count));
        assert!(exceeds([""; 101], 100, count));
        assert!(exceeds(["x"; 101], 100, |_| None));
    }

    #[test]
    fn only_the_model_has_thoughts_that_are_left_out() {
        let message = |role: &str| ChatMessage {
            role: role.into(),
            content: " a</think> b ".into(),
            ..ChatMessage::default()
        };
        let messages = ["assistant", "user", "tool"].map(message);
        let contents: Vec<&str> = contents(&messages).collect();
        assert_eq!(contents, ["b", "a</think> b", "a</think> b"]);
    }

    fn history() -> Vec<ChatMessage> {
        vec![
            ChatMessage {
                role: "assistant".into(),
                content: "hi".into(),
                name: Some("bot".into()),
                tool_calls: vec![ToolCall {
                    id: "call_1".into(),
                    name: "get".into(),
                    arguments: "{}".into(),
                }],
                tool_call_id: None,
            },
            ChatMessage {
                role: "tool".into(),
                tool_call_id: Some("call_1".into()),
                ..ChatMessage::default()
            },
        ]
    }

    #[test]
    fn parts_that_the_template_prints_are_counted() {
        let tools = [Tool {
            name: "get".into(),
            description: Some("Gets.".into()),
            parameters: Some("true".into()),
            ..Tool::default()
        }];
        let history = history();
        let parts = |template| printed_parts(&history, &tools, template);
        assert!(parts("{{ content }}").is_empty());
        assert_eq!(parts("{{ m.name }}"), ["bot"]);
        assert_eq!(parts("{{ m.tool_call_id }}"), ["call_1"]);
        assert_eq!(parts("{{ m['tool_calls'] }}"), ["call_1", "get", "{}"]);
        assert_eq!(parts("{{ tools | tojson }}"), ["get", "Gets.", "true"]);
    }

    #[test]
    fn pieces_add_up_to_the_text() {
        for text in [
            "ä".repeat(40_000),
            "ä b ".repeat(20_000),
            String::new(),
            " ".repeat(50_000),
        ] {
            assert_eq!(pieces(&text).collect::<String>(), text);
            assert!(pieces(&text).all(|piece| piece.len() <= PIECE_BYTES));
        }
    }
}
