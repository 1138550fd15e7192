//! The forms in which models write tool calls.

use serde::Deserialize;
use serde_json::Value;

/// A call: the function's name, and its arguments as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: String,
}

/// What a text that may begin with calls is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Calls, and how many bytes they take.
    Calls(Vec<Call>, usize),
    /// The text so far may be the beginning of calls.
    Partial,
    /// It is something else.
    Other,
}

/// A form of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallFormat {
    /// A JSON object or a list of them, with nothing around it.
    Json,
    /// `<tool_call>{...}</tool_call>`, of Hermes and Qwen.
    Tags,
    /// `[TOOL_CALLS][...]`, of Mistral.
    Mistral,
    /// `<|python_tag|>{...}`, of Llama.
    PythonTag,
    /// DeepSeek's, with the name outside the JSON.
    DeepSeek,
}

const DEEPSEEK_NAME: &str = "function<｜tool▁sep｜>";
const DEEPSEEK_FENCE: &str = "\n```json\n";
const DEEPSEEK_END: &str = "\n```<｜tool▁call▁end｜>";

impl CallFormat {
    pub(super) const ALL: [Self; 5] = [
        Self::Tags,
        Self::Mistral,
        Self::PythonTag,
        Self::DeepSeek,
        Self::Json,
    ];

    /// The texts with which calls of this form begin.
    pub(super) fn starts(self) -> &'static [&'static str] {
        match self {
            Self::Json => &["{", "["],
            Self::Tags => &["<tool_call>"],
            Self::Mistral => &["[TOOL_CALLS]"],
            Self::PythonTag => &["<|python_tag|>"],
            Self::DeepSeek => &["<｜tool▁call▁begin｜>"],
        }
    }

    /// Whether more calls may follow in the same answer.
    pub(super) fn may_repeat(self) -> bool {
        matches!(self, Self::Tags | Self::DeepSeek)
    }

    /// Reads a text that begins with one of the [`starts`](Self::starts).
    pub(super) fn read(self, text: &str) -> Reading {
        let start = self.starts().iter().find(|start| text.starts_with(**start));
        let Some(start) = start else {
            return Reading::Other;
        };
        let body = match self {
            Self::Json => text,
            _ => &text[start.len()..],
        };
        let offset = text.len() - body.len();
        let reading = match self {
            Self::Json | Self::Mistral | Self::PythonTag => read_json(body),
            Self::Tags => read_tagged(body),
            Self::DeepSeek => read_deepseek(body),
        };
        match reading {
            Reading::Calls(calls, length) => Reading::Calls(calls, offset + length),
            other => other,
        }
    }
}

/// A call in JSON, with the names that models use for its parts.
#[derive(Deserialize)]
struct JsonCall {
    #[serde(alias = "function")]
    name: String,
    #[serde(alias = "parameters")]
    arguments: Value,
}

impl JsonCall {
    /// Some models write the arguments as a text with JSON in it. `None` if they are no object.
    fn call(self) -> Option<Call> {
        let arguments = match self.arguments {
            Value::String(text) => serde_json::from_str(&text).ok()?,
            other => other,
        };
        arguments.is_object().then(|| Call {
            name: self.name,
            arguments: arguments.to_string(),
        })
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonCalls {
    One(JsonCall),
    Several(Vec<JsonCall>),
}

fn read_json(text: &str) -> Reading {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        None => Reading::Partial,
        Some(Err(error)) if error.is_eof() => match may_be_call(text) {
            true => Reading::Partial,
            false => Reading::Other,
        },
        Some(Err(_)) => Reading::Other,
        Some(Ok(value)) => match calls(value) {
            Some(calls) => Reading::Calls(calls, values.byte_offset()),
            None => Reading::Other,
        },
    }
}

/// Whether the beginning of JSON may be that of calls: an object whose first field is one of a call's.
fn may_be_call(text: &str) -> bool {
    let is_space = |c: char| c.is_whitespace();
    let text = text.trim_start();
    let text = text.strip_prefix('[').unwrap_or(text).trim_start();
    let Some(text) = text.strip_prefix('{') else {
        return text.is_empty();
    };
    let text = text.trim_start_matches(is_space);
    let mut fields = ["name", "function", "arguments", "parameters", "id", "type"].into_iter();
    fields.any(|field| {
        let field = format!("\"{field}\"");
        text.starts_with(&field) || field.starts_with(text)
    })
}

fn calls(value: Value) -> Option<Vec<Call>> {
    let calls = match serde_json::from_value(value).ok()? {
        JsonCalls::One(call) => vec![call],
        JsonCalls::Several(calls) => calls,
    };
    let calls: Option<Vec<Call>> = calls.into_iter().map(JsonCall::call).collect();
    calls.filter(|calls| !calls.is_empty())
}

fn read_tagged(body: &str) -> Reading {
    const END: &str = "</tool_call>";
    let Some(length) = body.find(END) else {
        return Reading::Partial;
    };
    let json = serde_json::from_str(body[..length].trim()).ok();
    match json.and_then(calls) {
        Some(calls) => Reading::Calls(calls, length + END.len()),
        None => Reading::Other,
    }
}

fn read_deepseek(body: &str) -> Reading {
    let Some(end) = body.find(DEEPSEEK_END) else {
        return Reading::Partial;
    };
    let call = body[..end].strip_prefix(DEEPSEEK_NAME);
    let call = call.and_then(|call| call.split_once(DEEPSEEK_FENCE));
    let call = call.and_then(|(name, arguments)| {
        let arguments = serde_json::from_str(arguments).ok()?;
        let name = name.trim().to_owned();
        JsonCall { name, arguments }.call()
    });
    match call {
        Some(call) => Reading::Calls(vec![call], end + DEEPSEEK_END.len()),
        None => Reading::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str) -> Call {
        Call {
            name: name.into(),
            arguments: r#"{"a":1}"#.into(),
        }
    }

    #[test]
    fn calls_are_read_in_every_form() {
        let object = r#"{"name": "f", "arguments": {"a": 1}}"#;
        for (format, text, names) in [
            (CallFormat::Json, object.to_owned(), &["f"][..]),
            (CallFormat::Json, format!("[{object}, {object}]"), &["f", "f"]),
            (
                CallFormat::Json,
                r#"{"function": "f", "parameters": "{\"a\": 1}"}"#.to_owned(),
                &["f"],
            ),
            (
                CallFormat::Tags,
                format!("<tool_call>\n{object}\n</tool_call>"),
                &["f"],
            ),
            (CallFormat::Mistral, format!("[TOOL_CALLS] [{object}]"), &["f"]),
            (CallFormat::PythonTag, format!("<|python_tag|>{object}"), &["f"]),
            (
                CallFormat::DeepSeek,
                "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>"
                    .to_owned(),
                &["f"],
            ),
        ] {
            let expected = names.iter().map(|name| call(name)).collect();
            assert_eq!(
                format.read(&format!("{text} rest")),
                Reading::Calls(expected, text.len()),
                "{text}"
            );
            for (end, _) in text.char_indices().skip(1) {
                let begun = format.starts().iter().any(|s| text[..end].starts_with(s));
                if begun {
                    assert_eq!(format.read(&text[..end]), Reading::Partial, "{}", &text[..end]);
                }
            }
        }
    }

    #[test]
    fn other_json_is_no_call() {
        for text in [
            r#"{"city": "Rome"}"#,
            r#"{"city": "#,
            "[1, 2",
            "{ fn main() }",
            r#"{"name": "f", "arguments": 1}"#,
            "[]",
        ] {
            assert_eq!(CallFormat::Json.read(text), Reading::Other, "{text}");
        }
        assert_eq!(
            CallFormat::Tags.read("<tool_call>no</tool_call>"),
            Reading::Other
        );
    }
}
