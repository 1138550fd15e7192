//! Finds stop texts in a stream. Text that may be the beginning of a stop text is held back until the
//! text that follows decides it.

/// Searches for stop texts in a text that arrives in pieces.
pub(crate) struct StopTexts {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop text, and is not emitted yet.
    buffer: String,
}

/// What to do after a piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StopMatch {
    /// Emit this text and continue.
    Continue(String),
    /// Emit this text and end the answer: a stop text was found.
    Stop(String),
}

impl StopTexts {
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            buffer: String::new(),
        }
    }

    /// Adds the next piece.
    pub(crate) fn push(&mut self, piece: String) -> StopMatch {
        if self.stops.is_empty() {
            return StopMatch::Continue(piece);
        }
        self.buffer.push_str(&piece);
        let matches = self
            .stops
            .iter()
            .filter_map(|stop| self.buffer.find(stop.as_str()));
        if let Some(index) = matches.min() {
            self.buffer.truncate(index);
            return StopMatch::Stop(std::mem::take(&mut self.buffer));
        }
        let kept_bytes = self
            .stops
            .iter()
            .map(|stop| overlap(&self.buffer, stop))
            .max();
        let emitted_bytes = self.buffer.len() - kept_bytes.unwrap_or(0);
        let kept = self.buffer.split_off(emitted_bytes);
        StopMatch::Continue(std::mem::replace(&mut self.buffer, kept))
    }

    /// Returns the text that was held back, at the end of the answer.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.buffer)
    }
}

/// Returns the length of the longest suffix of `text` that is a proper prefix of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len())
        .rev()
        .find(|length| stop.is_char_boundary(*length) && text.ends_with(&stop[..*length]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut texts = StopTexts::new(stops.iter().map(|s| (*s).to_owned()).collect());
        let mut out = String::new();
        for piece in pieces {
            match texts.push((*piece).to_owned()) {
                StopMatch::Continue(text) => out.push_str(&text),
                StopMatch::Stop(text) => return (out + &text, true),
            }
        }
        (out + &texts.finish(), false)
    }

    #[test]
    fn stop_text_is_found_across_pieces() {
        assert_eq!(run(&["END"], &["a E", "N", "D b"]), ("a ".into(), true));
        assert_eq!(run(&["END"], &["aEND"]), ("a".into(), true));
    }

    #[test]
    fn text_that_only_began_like_a_stop_text_is_emitted() {
        assert_eq!(run(&["END"], &["a E", "N", "Q"]), ("a ENQ".into(), false));
        assert_eq!(run(&["END"], &["a EN"]), ("a EN".into(), false));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), false));
    }

    #[test]
    fn earliest_stop_text_ends_the_answer() {
        assert_eq!(run(&["c", "b"], &["abc"]), ("a".into(), true));
        assert_eq!(run(&["ää"], &["xä", "ä"]), ("x".into(), true));
    }

    #[test]
    fn only_what_may_be_a_stop_text_is_held_back() {
        let mut texts = StopTexts::new(vec!["\n\n".into()]);
        assert_eq!(
            texts.push("abc\n".into()),
            StopMatch::Continue("abc".into())
        );
        assert_eq!(texts.push("d".into()), StopMatch::Continue("\nd".into()));
    }
}
