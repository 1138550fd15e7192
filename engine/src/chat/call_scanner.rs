//! Finds the tool calls in an answer that no grammar forces.

use super::call_formats::{Call, CallFormat, Reading};

/// Searches a text that arrives in pieces. Text that may be the beginning of a call is held back.
pub(crate) struct CallScanner {
    /// The functions that may be called.
    functions: Vec<String>,
    buffer: String,
    is_complete: bool,
}

/// What a piece adds to an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ScannedPiece {
    pub(crate) content: String,
    /// Names and arguments of calls.
    pub(crate) calls: Vec<(String, String)>,
}

impl CallScanner {
    pub(crate) fn new(functions: Vec<String>) -> Self {
        Self {
            functions,
            buffer: String::new(),
            is_complete: false,
        }
    }

    /// Whether the answer is complete: a call was found after which no other may follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Adds the next piece.
    pub(crate) fn push(&mut self, text: &str) -> ScannedPiece {
        self.buffer.push_str(text);
        let mut piece = ScannedPiece::default();
        let mut position = 0;
        while !self.is_complete {
            let Some((offset, format)) = candidate(&self.buffer[position..]) else {
                piece.content.push_str(&self.buffer[position..]);
                position = self.buffer.len();
                break;
            };
            piece
                .content
                .push_str(&self.buffer[position..position + offset]);
            position += offset;
            let rest = &self.buffer[position..];
            let reading = match format {
                Some(format) => format.read(rest),
                // Only a part of the text with which a call begins is there.
                None => Reading::Partial,
            };
            match reading {
                Reading::Calls(calls, length) if self.knows(format, &calls) => {
                    let calls = calls.into_iter().map(|call| (call.name, call.arguments));
                    piece.calls.extend(calls);
                    position += length;
                    self.is_complete = !format.is_some_and(CallFormat::may_repeat);
                }
                Reading::Partial => break,
                Reading::Calls(..) | Reading::Other => {
                    let first = rest.chars().next().map_or(0, char::len_utf8);
                    piece.content.push_str(&rest[..first]);
                    position += first;
                }
            }
        }
        self.buffer.drain(..position);
        if !piece.calls.is_empty() && piece.content.trim().is_empty() {
            piece.content.clear();
        }
        piece
    }

    /// Returns the text that was held back, at the end of the answer.
    pub(crate) fn finish(&mut self) -> String {
        if self.is_complete {
            return String::new();
        }
        std::mem::take(&mut self.buffer)
    }

    /// Whether the calls are meant: JSON without anything around it is a call only of a known function.
    fn knows(&self, format: Option<CallFormat>, calls: &[Call]) -> bool {
        format != Some(CallFormat::Json)
            || calls.iter().all(|call| self.functions.contains(&call.name))
    }
}

/// The first place where calls may begin, and in which form. No form if the text ends inside its start.
fn candidate(text: &str) -> Option<(usize, Option<CallFormat>)> {
    let mut first: Option<(usize, Option<CallFormat>)> = None;
    let mut consider = |offset: usize, format: Option<CallFormat>| {
        if first.is_none_or(|(best, _)| offset < best) {
            first = Some((offset, format));
        }
    };
    for format in CallFormat::ALL {
        for start in format.starts() {
            if let Some(offset) = text.find(start) {
                consider(offset, Some(format));
            }
            if let Some(offset) = begun(text, start) {
                consider(offset, None);
            }
        }
    }
    first
}

/// Where the end of `text` is a proper beginning of `start`.
fn begun(text: &str, start: &str) -> Option<usize> {
    let lengths = (1..start.len()).rev();
    let mut lengths = lengths.filter(|length| start.is_char_boundary(*length));
    let length = lengths.find(|length| text.ends_with(&start[..*length]))?;
    Some(text.len() - length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&str]) -> (String, Vec<(String, String)>, String, bool) {
        let mut scanner = CallScanner::new(vec!["f".into()]);
        let (mut content, mut calls) = (String::new(), Vec::new());
        for text in pieces {
            let piece = scanner.push(text);
            content += &piece.content;
            calls.extend(piece.calls);
        }
        let held = scanner.finish();
        (content, calls, held, scanner.is_complete())
    }

    fn f() -> (String, String) {
        ("f".into(), r#"{"a":1}"#.into())
    }

    #[test]
    fn call_in_pieces_is_found_and_ends_the_answer() {
        let pieces = [
            "Sure: ",
            "{\"na",
            "me\": \"f\", \"argum",
            "ents\": {\"a\": 1}}",
            " and",
        ];
        let expected = ("Sure: ".to_owned(), vec![f()], String::new(), true);
        assert_eq!(scan(&pieces), expected);
    }

    #[test]
    fn tagged_calls_may_follow_each_other() {
        let call = r#"<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>"#;
        let (content, calls, held, is_complete) = scan(&["\n", call, "\n", call]);
        assert_eq!((&*content, calls.len(), &*held), ("\n\n", 2, ""));
        assert!(!is_complete);
    }

    #[test]
    fn text_that_only_looks_like_a_call_is_content() {
        for text in [
            "fn main() { let a = [1, 2]; }",
            r#"{"name": "g", "arguments": {}}"#,
            "a < b <tool> [TOOL]",
        ] {
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let pieces: Vec<&str> = chars.iter().map(String::as_str).collect();
            let (content, calls, held, _) = scan(&pieces);
            assert_eq!((content + &held, calls), (text.to_owned(), vec![]));
        }
    }

    #[test]
    fn call_that_was_cut_is_held_back() {
        let text = r#"{"name": "f", "arguments": {"a"#;
        assert_eq!(scan(&[text]).2, text);
    }
}
