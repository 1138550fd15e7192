//! The tool calls of an answer, numbered from 0 however the server numbers them.

use flotilla_core::generate::{MAX_TOOL_CALLS, RequestError, ToolCallDelta};
use serde_json::value::RawValue;

use super::error;
use super::response::CallField;
use crate::call_id::new_call_id;

/// The tool calls of a choice so far.
#[derive(Default)]
pub(super) struct ToolCalls {
    calls: Vec<ToolCallState>,
}

/// What is known of a call.
struct ToolCallState {
    /// The server's index of the call.
    index: Option<u64>,
    /// The server's id of the call.
    id: Option<String>,
    has_name: bool,
    has_arguments: bool,
}

impl ToolCalls {
    /// Returns whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Adds a part of a call: more of a known one, or the first part of a new one. Id and name are in the
    /// returned part only the first time that they come: clients join what is repeated. A call without an
    /// id gets one. Returns `None` if the part adds nothing.
    ///
    /// # Errors
    /// When there are more than [`MAX_TOOL_CALLS`], or the arguments are not valid text.
    pub(super) fn add(&mut self, part: CallField) -> Result<Option<ToolCallDelta>, RequestError> {
        let id = part.id.filter(|id| !id.is_empty());
        let function = part.function.unwrap_or_default();
        let name = function.name.filter(|name| !name.is_empty());
        let arguments = function
            .arguments
            .as_deref()
            .map_or(Ok(String::new()), arguments_text)?;
        if id.is_none() && name.is_none() && arguments.is_empty() {
            return Ok(None);
        }
        let known = self.find(part.index, id.as_deref(), name.is_some());
        let is_new = known.is_none();
        let position = match known {
            Some(position) => position,
            None => self.open(part.index, id.clone())?,
        };
        let call = &mut self.calls[position];
        call.has_arguments |= !arguments.is_empty();
        let is_named = call.has_name;
        call.has_name |= name.is_some();
        let name = name.filter(|_| !is_named);
        if !is_new && name.is_none() && arguments.is_empty() {
            return Ok(None);
        }
        Ok(Some(ToolCallDelta {
            // At most MAX_TOOL_CALLS.
            index: position as u32,
            id: is_new.then(|| id.unwrap_or_else(new_call_id)),
            name,
            arguments,
        }))
    }

    /// Finds the call that a part belongs to. A new id is a new call whatever its index says, since some
    /// servers give all calls the same. Without an index and an id a name begins a new call once the last
    /// one has arguments, and everything else belongs to the last one.
    fn find(&self, index: Option<u64>, id: Option<&str>, has_name: bool) -> Option<usize> {
        match (index, id) {
            (None, None) => {
                let last = self.calls.last()?;
                let is_new = has_name && (last.has_name && last.has_arguments);
                (!is_new).then(|| self.calls.len() - 1)
            }
            (None, Some(id)) => self.rfind(|call| call.id.as_deref() == Some(id)),
            (Some(_), None) => self.rfind(|call| call.index == index),
            (Some(_), Some(id)) => self.rfind(|call| {
                call.index == index && call.id.as_deref().is_none_or(|known| known == id)
            }),
        }
    }

    fn rfind(&self, is_wanted: impl FnMut(&ToolCallState) -> bool) -> Option<usize> {
        self.calls.iter().rposition(is_wanted)
    }

    fn open(&mut self, index: Option<u64>, id: Option<String>) -> Result<usize, RequestError> {
        if self.calls.len() >= MAX_TOOL_CALLS {
            let what = format!("has more than {MAX_TOOL_CALLS} tool calls");
            return Err(error::invalid(&what));
        }
        self.calls.push(ToolCallState {
            index,
            id,
            has_name: false,
            has_arguments: false,
        });
        Ok(self.calls.len() - 1)
    }
}

/// The JSON text of arguments, which a server sends as a string or as the value itself.
fn arguments_text(arguments: &RawValue) -> Result<String, RequestError> {
    let json = arguments.get();
    if !json.starts_with('"') {
        return Ok(json.to_owned());
    }
    serde_json::from_str(json)
        .map_err(|e| error::invalid(&format!("has arguments that cannot be parsed: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// The calls of these parts, each with its id, name and arguments.
    fn calls(parts: &[Value]) -> Vec<(String, String, String)> {
        let mut calls = ToolCalls::default();
        let mut joined: Vec<(String, String, String)> = Vec::new();
        for part in parts {
            let part = serde_json::from_value(part.clone()).unwrap();
            let Some(delta) = calls.add(part).unwrap() else {
                continue;
            };
            let index = delta.index as usize;
            joined.resize_with(joined.len().max(index + 1), Default::default);
            // As clients join the parts.
            joined[index].0 += &delta.id.unwrap_or_default();
            joined[index].1 += &delta.name.unwrap_or_default();
            joined[index].2 += &delta.arguments;
        }
        joined
    }

    fn call(id: &str, arguments: &str) -> (String, String, String) {
        (id.into(), "f".into(), arguments.into())
    }

    #[test]
    fn a_new_id_is_a_new_call_without_an_index() {
        let start = |id| json!({"id": id, "function": {"name": "f", "arguments": ""}});
        let more = |text| json!({"function": {"arguments": text}});
        let parts = [
            start("a"),
            more("{\"x\":"),
            more("1}"),
            start("b"),
            more("{\"y\":2}"),
        ];
        let two = [call("a", "{\"x\":1}"), call("b", "{\"y\":2}")];
        assert_eq!(calls(&parts), two);
        // Whole calls, and ids that come with every part.
        let whole = |id, text| json!({"id": id, "function": {"name": "f", "arguments": text}});
        let parts = [
            whole("a", "{\"x\":"),
            whole("a", "1}"),
            whole("b", "{\"y\":2}"),
        ];
        assert_eq!(calls(&parts), two);
    }

    #[test]
    fn calls_are_numbered_from_zero_whatever_the_server_does() {
        let start =
            |index: u64, id: &str| json!({"index": index, "id": id, "function": {"name": "f"}});
        let more =
            |index: u64, text: &str| json!({"index": index, "function": {"arguments": text}});
        for (one, two) in [(0, 1), (1, 2), (3_000_000_000, 7)] {
            let parts = [
                start(one, "a"),
                start(two, "b"),
                more(one, "1"),
                more(two, "2"),
            ];
            assert_eq!(calls(&parts), [call("a", "1"), call("b", "2")]);
        }
        let parts = [start(0, "a"), more(0, "1"), start(0, "b"), more(0, "2")];
        assert_eq!(calls(&parts), [call("a", "1"), call("b", "2")]);
    }

    #[test]
    fn calls_without_ids_get_ids() {
        let part =
            json!({"id": null, "type": null, "function": {"name": "f", "arguments": {"x": 1}}});
        let calls = calls(&[part.clone(), part]);
        assert_eq!(calls.len(), 2);
        assert!(calls[0].0.starts_with("call_") && calls[0].0 != calls[1].0);
        assert_eq!(calls[0].2, "{\"x\":1}");
    }

    #[test]
    fn parts_that_add_nothing_are_dropped() {
        let mut calls = ToolCalls::default();
        let mut add = |part: Value| calls.add(serde_json::from_value(part).unwrap()).unwrap();
        assert_eq!(add(json!({})), None);
        assert!(add(json!({"id": "a", "function": {"name": "f"}})).is_some());
        for empty in [
            json!({}),
            json!({"index": 7}),
            json!({"id": "", "function": {"name": "", "arguments": ""}}),
            json!({"id": "a"}),
            json!({"id": "a", "function": {"name": "f", "arguments": null}}),
        ] {
            assert_eq!(add(empty.clone()), None, "{empty}");
        }
        let more = add(json!({"function": {"arguments": "{"}})).unwrap();
        assert_eq!((more.index, &*more.arguments), (0, "{"));
    }

    #[test]
    fn number_of_calls_is_bounded() {
        let mut calls = ToolCalls::default();
        let mut add = |id: usize| {
            let part = json!({"id": id.to_string(), "function": {"name": "f"}});
            calls.add(serde_json::from_value(part).unwrap())
        };
        assert!((0..MAX_TOOL_CALLS).all(|id| add(id).is_ok()));
        assert!(matches!(
            add(MAX_TOOL_CALLS),
            Err(RequestError::Upstream(_))
        ));
    }
}
