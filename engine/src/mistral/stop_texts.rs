//! Stop texts in a stream: text that may be the beginning of one is held back until it is
//! clear that it is not.

/// Looks for stop texts in text that comes in pieces.
pub(super) struct StopTexts {
    stops: Vec<String>,
    /// Text not yet given out: it may be the beginning of a stop text.
    held: String,
}

/// What to do with a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StopMatch {
    /// Give this out and go on.
    Go(String),
    /// Give this out and end: a stop text was met.
    Stop(String),
}

impl StopTexts {
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            held: String::new(),
        }
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: String) -> StopMatch {
        if self.stops.is_empty() {
            return StopMatch::Go(piece);
        }
        self.held.push_str(&piece);
        let met = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()));
        if let Some(at) = met.min() {
            self.held.truncate(at);
            return StopMatch::Stop(std::mem::take(&mut self.held));
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max();
        let free = self.held.len() - keep.unwrap_or(0);
        let rest = self.held.split_off(free);
        StopMatch::Go(std::mem::replace(&mut self.held, rest))
    }

    /// Takes what was held back, at the end of the answer.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`, and not all of it.
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
                StopMatch::Go(text) => out.push_str(&text),
                StopMatch::Stop(text) => return (out + &text, true),
            }
        }
        (out + &texts.finish(), false)
    }

    #[test]
    fn a_stop_text_is_found_across_pieces() {
        assert_eq!(run(&["END"], &["a E", "N", "D b"]), ("a ".into(), true));
        assert_eq!(run(&["END"], &["aEND"]), ("a".into(), true));
    }

    #[test]
    fn what_only_began_like_one_is_given_out() {
        assert_eq!(run(&["END"], &["a E", "N", "Q"]), ("a ENQ".into(), false));
        assert_eq!(run(&["END"], &["a EN"]), ("a EN".into(), false));
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), false));
    }

    #[test]
    fn the_first_of_several_counts() {
        assert_eq!(run(&["c", "b"], &["abc"]), ("a".into(), true));
        assert_eq!(run(&["ää"], &["xä", "ä"]), ("x".into(), true));
    }

    #[test]
    fn only_what_may_be_a_stop_text_is_held_back() {
        let mut texts = StopTexts::new(vec!["\n\n".into()]);
        assert_eq!(texts.push("abc\n".into()), StopMatch::Go("abc".into()));
        assert_eq!(texts.push("d".into()), StopMatch::Go("\nd".into()));
    }
}
