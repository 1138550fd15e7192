//! Reads the tool call that a grammar made the model write.

use flotilla_core::generate::ToolCallDelta;

use crate::call_id::new_call_id;

/// The text of every call before the name of the function.
const CALL_START: &str = "{\"name\": \"";

/// The text of a call before its arguments. A function's name has no character that JSON escapes.
pub(crate) fn call_head(name: &str) -> String {
    format!("{CALL_START}{name}\", \"arguments\": ")
}

/// Reads an answer that is one call, or else content.
pub(crate) struct CallReader {
    /// The functions that may be called.
    functions: Vec<String>,
    may_have_content: bool,
    state: State,
}

enum State {
    /// The text so far can be the beginning of a call.
    Head(String),
    Arguments(ObjectEnd),
    Content,
    Complete,
}

/// What a piece of text adds to an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CallPiece {
    pub(crate) content: String,
    pub(crate) call: Option<ToolCallDelta>,
}

impl CallReader {
    pub(crate) fn new(functions: Vec<String>, may_have_content: bool) -> Self {
        Self {
            functions,
            may_have_content,
            state: State::Head(String::new()),
        }
    }

    /// Whether the answer is a complete call.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Whether the answer is content.
    pub(crate) fn is_content(&self) -> bool {
        matches!(self.state, State::Content)
    }

    /// Reads the next piece of text.
    pub(crate) fn push(&mut self, text: &str) -> CallPiece {
        match &mut self.state {
            State::Head(head) => {
                head.push_str(text);
                let head = std::mem::take(head);
                self.read_head(head)
            }
            State::Arguments(end) => match end.find(text) {
                Some(length) => {
                    self.state = State::Complete;
                    arguments(&text[..length])
                }
                None => arguments(text),
            },
            State::Content => CallPiece {
                content: text.to_owned(),
                call: None,
            },
            State::Complete => CallPiece::default(),
        }
    }

    /// Returns the content that was held back, at the end of the answer.
    pub(crate) fn finish(&mut self) -> String {
        match &mut self.state {
            // So far the text may be either; more than this is a call that was cut.
            State::Head(head) if self.may_have_content && CALL_START.starts_with(head.as_str()) => {
                std::mem::take(head)
            }
            _ => String::new(),
        }
    }

    fn read_head(&mut self, text: String) -> CallPiece {
        let is_begun = |name: &&String| text.starts_with(&call_head(name));
        if let Some(name) = self.functions.iter().find(is_begun) {
            let head = call_head(name).len();
            let call = ToolCallDelta {
                index: 0,
                id: Some(new_call_id()),
                name: Some(name.clone()),
                arguments: String::new(),
            };
            self.state = State::Arguments(ObjectEnd::default());
            let rest = self.push(&text[head..]);
            return CallPiece {
                content: String::new(),
                call: Some(ToolCallDelta {
                    arguments: rest.call.map(|call| call.arguments).unwrap_or_default(),
                    ..call
                }),
            };
        }
        let can_begin = |name: &String| call_head(name).starts_with(&text);
        if self.functions.iter().any(can_begin) {
            self.state = State::Head(text);
            return CallPiece::default();
        }
        self.state = State::Content;
        CallPiece {
            content: text,
            call: None,
        }
    }
}

fn arguments(text: &str) -> CallPiece {
    CallPiece {
        content: String::new(),
        call: (!text.is_empty()).then(|| ToolCallDelta {
            arguments: text.to_owned(),
            ..ToolCallDelta::default()
        }),
    }
}

/// Texts with which models begin a call, before its JSON.
const CALL_MARKS: [&str; 4] = ["<tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "["];

/// Reads a call that was cut, in the form that a model chose itself. Returns the function and the part of
/// its arguments, or neither if the text ends before. `None` if the text is no call of one of the
/// functions.
pub(crate) fn cut_call<'a>(
    text: &str,
    mut functions: impl Iterator<Item = &'a str>,
) -> Option<Option<ToolCallDelta>> {
    let mut text = text.trim_start();
    let mut is_marked = false;
    for mark in CALL_MARKS {
        if let Some(rest) = text.strip_prefix(mark) {
            is_marked = true;
            text = rest.trim_start();
        }
    }
    let name = expect(text, &["{", "\"name\"", ":", "\""])?;
    let Some(name) = name else {
        // Without a mark, this much may begin any object.
        return (is_marked || text.contains("\"name\"")).then_some(None);
    };
    let Some((name, rest)) = name.split_once('"') else {
        return functions
            .any(|function| function.starts_with(name))
            .then_some(None);
    };
    let name = functions.find(|function| *function == name)?;
    let arguments = ["\"arguments\"", "\"parameters\""];
    let arguments = arguments
        .iter()
        .find_map(|key| expect(rest, &[",", key, ":"]))?;
    let Some(arguments) = arguments else {
        return Some(None);
    };
    Some(Some(ToolCallDelta {
        index: 0,
        id: Some(new_call_id()),
        name: Some(name.to_owned()),
        arguments: arguments.to_owned(),
    }))
}

/// Skips these texts with white space around them. Returns `Some(None)` if the text ends before the last
/// of them, and `None` if it differs.
fn expect<'t>(mut text: &'t str, expected: &[&str]) -> Option<Option<&'t str>> {
    for part in expected {
        let trimmed = text.trim_start();
        if let Some(rest) = trimmed.strip_prefix(part) {
            text = rest;
        } else {
            return part.starts_with(trimmed).then_some(None);
        }
    }
    Some(Some(text.trim_start()))
}

/// Finds the end of a JSON object in pieces of text.
#[derive(Default)]
struct ObjectEnd {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl ObjectEnd {
    /// Returns the length of the part of `text` that belongs to the object if the object ends in it.
    fn find(&mut self, text: &str) -> Option<usize> {
        for (index, byte) in text.bytes().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(index + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a text in pieces of `size` characters. Returns content, function and arguments.
    fn read(reader: &mut CallReader, text: &str, size: usize) -> (String, String, String) {
        let chars: Vec<char> = text.chars().collect();
        let (mut content, mut name, mut arguments) = <(String, String, String)>::default();
        let mut has_id = false;
        for piece in chars.chunks(size) {
            let piece = reader.push(&piece.iter().collect::<String>());
            content.push_str(&piece.content);
            if let Some(call) = piece.call {
                assert_ne!(has_id, call.id.is_some(), "the first piece has the id");
                has_id = true;
                name.push_str(&call.name.unwrap_or_default());
                arguments.push_str(&call.arguments);
            }
        }
        content.push_str(&reader.finish());
        (content, name, arguments)
    }

    fn reader(may_have_content: bool) -> CallReader {
        CallReader::new(vec!["get".into(), "get.it".into()], may_have_content)
    }

    #[test]
    fn call_is_read_from_pieces_of_any_size() {
        let arguments = r#"{"a": "}\"{ä", "b": [{"c": {}}]}"#;
        let text = format!(r#"{{"name": "get.it", "arguments": {arguments}}}"#);
        for size in 1..text.len() {
            let mut reader = reader(false);
            let call = read(&mut reader, &text, size);
            assert_eq!(call, (String::new(), "get.it".into(), arguments.into()));
            assert!(reader.is_complete());
        }
    }

    #[test]
    fn call_that_was_cut_is_no_content() {
        let text = r#"{"name": "get", "arguments": {"a": 1"#;
        for length in 0..text.len() {
            let mut reader = reader(false);
            let (content, name, arguments) = read(&mut reader, &text[..length], 3);
            assert_eq!(content, "", "{length}");
            assert!(!reader.is_complete());
            assert_eq!(name.is_empty(), length < call_head("get").len());
            assert!(r#"{"a": 1"#.starts_with(&arguments));
        }
    }

    #[test]
    fn other_text_is_content_where_that_is_allowed() {
        for text in ["{\"a\": 1}", "{\"name\": \"else\"}", "{", "\"x\""] {
            let mut reader = reader(true);
            assert_eq!(read(&mut reader, text, 1).0, text);
        }
        let mut cut = reader(true);
        assert_eq!(read(&mut cut, "{\"name\": \"ge", 1).0, "");
    }

    #[test]
    fn call_in_the_form_of_the_model_is_read_where_it_was_cut() {
        let cut = |text: &str| cut_call(text, ["get", "set"].into_iter());
        let arguments = |text: &str| {
            let call = cut(text).unwrap().unwrap();
            assert_eq!(call.name.as_deref(), Some("get"));
            call.arguments
        };
        assert_eq!(
            arguments("{\"name\": \"get\", \"arguments\": {\"a\": 1"),
            "{\"a\": 1"
        );
        assert_eq!(
            arguments("<tool_call>\n{\"name\":\"get\",\"parameters\":{"),
            "{"
        );
        assert_eq!(
            arguments("[TOOL_CALLS][{\"name\": \"get\", \"arguments\": "),
            ""
        );
        for head in [
            "<tool_call>",
            "<tool_call>{\"na",
            "{\"name\": \"g",
            "{\"name\": \"get\", \"arg",
        ] {
            assert_eq!(cut(head), Some(None), "{head}");
        }
        for content in [
            "hello",
            "",
            "{",
            "{\"a\": 1",
            "{\"name\": \"else\", \"arguments\": {",
            "{\"name\": 5",
        ] {
            assert_eq!(cut(content), None, "{content}");
        }
    }
}
