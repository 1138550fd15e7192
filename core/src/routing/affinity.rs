//! What of a conversation a replica may still have in memory from an earlier request.
//!
//! A conversation is marked after each of its turns by a hash of all up to there. A replica that
//! was given a conversation with a mark has read everything up to it.

use xxhash_rust::xxh3::Xxh3;

use crate::generate::GenerateInput;

/// A beginning of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversationPrefix {
    /// Stands for everything said up to here.
    pub key: u64,
    /// Bytes up to here.
    pub bytes: u32,
}

/// Shorter beginnings are read faster than they are looked up.
const SHORTEST: u32 = 256;
/// Most marks of a conversation: the newest turns, and its first one, which others may share.
const MARKS: usize = 8;

/// The marks of a conversation, the longest first. A plain text has one.
#[must_use]
pub fn marks(input: &GenerateInput) -> Vec<ConversationPrefix> {
    if input.bytes() < SHORTEST as usize {
        return Vec::new();
    }
    let mut hash = Xxh3::new();
    let mut bytes = 0;
    let mut marks = Vec::new();
    let mut mark = |hash: &Xxh3, bytes: usize| {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if bytes >= SHORTEST {
            if marks.len() == MARKS {
                marks.remove(1);
            }
            let key = hash.digest();
            marks.push(ConversationPrefix { key, bytes });
        }
    };
    match input {
        GenerateInput::Text(text) => {
            hash.update(text.as_bytes());
            mark(&hash, text.len());
        }
        GenerateInput::Chat(messages) => {
            for message in messages {
                for part in [&message.role, &message.content] {
                    hash.update(&(part.len() as u64).to_le_bytes());
                    hash.update(part.as_bytes());
                }
                bytes += message.content.len();
                mark(&hash, bytes);
            }
        }
    }
    marks.reverse();
    marks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::ChatMessage;

    fn chat(turns: &[(&str, String)]) -> GenerateInput {
        let messages = turns.iter().map(|(role, content)| ChatMessage {
            role: (*role).into(),
            content: content.clone(),
            ..ChatMessage::default()
        });
        GenerateInput::Chat(messages.collect())
    }

    #[test]
    fn a_conversation_that_goes_on_has_the_marks_it_had() {
        let long = |c: &str| c.repeat(300);
        let mut turns = vec![("system", long("s")), ("user", long("a"))];
        let before = marks(&chat(&turns));
        assert_eq!(before.len(), 2);
        assert_eq!(before[0].bytes, 600);
        turns.extend([("assistant", "yes".into()), ("user", "more".into())]);
        let after = marks(&chat(&turns));
        assert_eq!(after[2..], before);
        // Another conversation with the same beginning shares that alone.
        let other = marks(&chat(&[("system", long("s")), ("user", long("b"))]));
        assert_eq!(other[1], before[1]);
        assert_ne!(other[0], before[0]);
    }

    #[test]
    fn short_beginnings_have_none_and_long_conversations_few() {
        assert!(marks(&GenerateInput::Text("hi".into())).is_empty());
        assert!(marks(&chat(&[("user", "hi".into())])).is_empty());
        let turns: Vec<_> = (0..40).map(|n| ("user", format!("{n:0300}"))).collect();
        let marks = marks(&chat(&turns));
        assert_eq!(marks.len(), MARKS);
        assert_eq!((marks[0].bytes, marks[MARKS - 1].bytes), (12_000, 300));
    }
}
