//! Finds prompts that are far too long for a context without counting all their tokens.

/// The bytes that are counted at once. Counting stops after the piece with which the limit is exceeded.
const PIECE_BYTES: usize = 16 * 1024;
/// How many tokens a piece may have more on its own than as a part of its text: tokens that would span
/// the cut, and a space that some vocabularies add to the beginning of every text.
const TOKENS_PER_CUT: usize = 8;

/// Whether texts certainly have more than `limit` tokens together. `count` returns the tokens of a
/// text; a text that it cannot count has none.
pub(super) fn exceeds<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    limit: usize,
    count: impl Fn(&str) -> Option<usize>,
) -> bool {
    let mut tokens: usize = 0;
    for piece in texts.into_iter().flat_map(pieces) {
        tokens += count(piece).unwrap_or(0).saturating_sub(TOKENS_PER_CUT);
        if tokens > limit {
            return true;
        }
    }
    false
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
        assert!(exceeds([text.as_str(); 3], 250, count));
        assert!(!exceeds([text.as_str(); 2], 250, count));
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
