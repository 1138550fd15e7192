//! The part of a text that an encoder reads.

use std::borrow::Cow;

/// The most characters of a text that are sent to an encoder. A token of WordPiece has at least one character, so that
/// the text fits the 512 tokens of all-MiniLM-L6-v2 with the two that mark its ends; engines refuse longer texts. It
/// was trained on 128 tokens, which are about as many characters of English.
pub const MAX_ENCODED_CHARS: usize = 500;

/// Returns what of a text is sent to an encoder: all of it, or of a longer one the beginning and the end, where the
/// question is, with a space between them. At most [`MAX_ENCODED_CHARS`] characters.
#[must_use]
pub fn encoded_text(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    if text.char_indices().nth(MAX_ENCODED_CHARS).is_none() {
        return text.into();
    }
    let half = MAX_ENCODED_CHARS / 2;
    let head = text
        .char_indices()
        .nth(half)
        .map_or(text.len(), |(at, _)| at);
    let mut from_the_end = text.char_indices().rev();
    let tail = from_the_end.nth(half - 2).map_or(0, |(at, _)| at);
    format!("{} {}", &text[..head], &text[tail..]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_to_their_ends_at_characters() {
        assert_eq!(encoded_text(" hello\n"), "hello");
        for character in ["a", "é", "語", "😀"] {
            let whole = character.repeat(MAX_ENCODED_CHARS);
            assert_eq!(encoded_text(&whole), whole);
            let long = format!("first {} last", character.repeat(9_999));
            let cut = encoded_text(&long);
            assert_eq!(cut.chars().count(), MAX_ENCODED_CHARS);
            assert!(cut.starts_with("first ") && cut.ends_with(" last"));
        }
        assert_eq!(encoded_text(""), "");
    }
}
