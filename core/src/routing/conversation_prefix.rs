//! Identifies the prefixes of a conversation, to find a replica that has read a part of it before and may
//! still have it in memory.
//!
//! Each turn ends a prefix, which is identified by a hash of everything up to there. A replica that
//! was sent a conversation with a given prefix has read everything up to its end.

use xxhash_rust::xxh3::Xxh3;

use crate::generate::GenerateInput;

/// A prefix of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversationPrefix {
    /// The hash of all turns of the prefix.
    pub key: u64,
    /// The size of the prefix in bytes.
    pub bytes: u32,
}

/// The smallest prefix in bytes: reading a shorter one takes less time than its lookup.
const MIN_BYTES: u32 = 256;
/// The most prefixes of a conversation: those of the newest turns, and that of the first turn, which
/// other conversations may share.
const MAX_PREFIXES: usize = 8;

/// The prefixes of a conversation, the longest first. A plain text has one.
#[must_use]
pub fn conversation_prefixes(input: &GenerateInput) -> Vec<ConversationPrefix> {
    if input.bytes() < MIN_BYTES as usize {
        return Vec::new();
    }
    let mut hash = Xxh3::new();
    let mut bytes = 0;
    let mut prefixes = Vec::new();
    let mut end_prefix = |hash: &Xxh3, bytes: usize| {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if bytes >= MIN_BYTES {
            if prefixes.len() == MAX_PREFIXES {
                prefixes.remove(1);
            }
            let key = hash.digest();
            prefixes.push(ConversationPrefix { key, bytes });
        }
    };
    match input {
        GenerateInput::Text(text) => {
            hash.update(text.as_bytes());
            end_prefix(&hash, text.len());
        }
        GenerateInput::Tokens(tokens) => {
            for token in tokens {
                hash.update(&token.to_le_bytes());
            }
            end_prefix(&hash, input.bytes());
        }
        GenerateInput::Chat(messages) => {
            for message in messages {
                let calls = message.tool_calls.iter();
                let calls = calls.flat_map(|call| [&call.name, &call.arguments]);
                for part in [&message.role, &message.content].into_iter().chain(calls) {
                    hash.update(&(part.len() as u64).to_le_bytes());
                    hash.update(part.as_bytes());
                }
                bytes += message.bytes();
                end_prefix(&hash, bytes);
            }
        }
    }
    prefixes.reverse();
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{ChatMessage, ToolCall};

    fn chat(turns: &[(&str, String)]) -> GenerateInput {
        let messages = turns.iter().map(|(role, content)| ChatMessage {
            role: (*role).into(),
            content: content.clone(),
            ..ChatMessage::default()
        });
        GenerateInput::Chat(messages.collect())
    }

    #[test]
    fn continued_conversation_keeps_its_prefixes() {
        let long = |c: &str| c.repeat(300);
        let mut turns = vec![("system", long("s")), ("user", long("a"))];
        let before = conversation_prefixes(&chat(&turns));
        assert_eq!(before.len(), 2);
        assert_eq!(before[0].bytes, 600);
        turns.extend([("assistant", "yes".into()), ("user", "more".into())]);
        let after = conversation_prefixes(&chat(&turns));
        assert_eq!(after[2..], before);
        // A conversation with the same first turn shares that prefix only.
        let other = conversation_prefixes(&chat(&[("system", long("s")), ("user", long("b"))]));
        assert_eq!(other[1], before[1]);
        assert_ne!(other[0], before[0]);
    }

    #[test]
    fn calls_are_a_part_of_the_prefix() {
        let with_call = |arguments: &str| {
            let call = ToolCall {
                arguments: arguments.repeat(300),
                ..ToolCall::default()
            };
            conversation_prefixes(&GenerateInput::Chat(vec![ChatMessage {
                tool_calls: vec![call],
                ..ChatMessage::default()
            }]))
        };
        assert_eq!(with_call("a")[0].bytes, 300);
        assert_eq!(with_call("a"), with_call("a"));
        assert_ne!(with_call("a"), with_call("b"));
    }

    #[test]
    fn short_inputs_have_no_prefix_and_long_conversations_have_few() {
        assert!(conversation_prefixes(&GenerateInput::Text("hi".into())).is_empty());
        assert!(conversation_prefixes(&chat(&[("user", "hi".into())])).is_empty());
        let turns: Vec<_> = (0..40).map(|n| ("user", format!("{n:0300}"))).collect();
        let prefixes = conversation_prefixes(&chat(&turns));
        assert_eq!(prefixes.len(), MAX_PREFIXES);
        assert_eq!(
            (prefixes[0].bytes, prefixes[MAX_PREFIXES - 1].bytes),
            (12_000, 300)
        );
    }
}
