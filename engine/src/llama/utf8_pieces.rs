//! Text from the bytes of tokens, which may end inside a character.

/// Joins the bytes of characters that several tokens share.
#[derive(Debug, Default)]
pub(super) struct Utf8Pieces {
    /// The beginning of a character.
    rest: Vec<u8>,
}

impl Utf8Pieces {
    /// Adds the bytes of the next token, and returns the characters that are whole. Bytes that are no UTF-8 become
    /// replacement characters.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let mut text = String::new();
        let mut taken = 0;
        for chunk in self.rest.utf8_chunks() {
            text.push_str(chunk.valid());
            taken += chunk.valid().len();
            let invalid = chunk.invalid();
            let is_last = taken + invalid.len() == self.rest.len();
            if is_last && may_continue(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                taken += invalid.len();
            }
        }
        self.rest.drain(..taken);
        text
    }

    /// Returns what is left at the end of the answer.
    pub(super) fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.rest);
        String::from_utf8_lossy(&rest).into_owned()
    }
}

/// Whether bytes are the beginning of a character.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(tokens: &[&[u8]]) -> Vec<String> {
        let mut pieces = Utf8Pieces::default();
        let mut texts: Vec<String> = tokens.iter().map(|token| pieces.push(token)).collect();
        texts.push(pieces.finish());
        texts
    }

    #[test]
    fn character_of_several_tokens_comes_with_its_last_one() {
        let emoji = "a😀b".as_bytes();
        assert_eq!(join(&[&emoji[..3], &emoji[3..]]), ["a", "😀b", ""]);
        assert_eq!(join(&[b"x", "ä".as_bytes()]), ["x", "ä", ""]);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(join(&[b"a\xffb"]), ["a\u{fffd}b", ""]);
        assert_eq!(join(&[b"a\xf0\x9f", b"b"]), ["a", "\u{fffd}b", ""]);
        assert_eq!(join(&[b"a\xf0\x9f"]), ["a", "\u{fffd}"]);
    }
}
