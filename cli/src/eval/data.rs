//! Labelled requests from a JSON Lines file.

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Fields that can hold the request. The first field that is present is used.
const REQUEST_FIELDS: [&str; 5] = ["messages", "text", "prompt", "question", "input"];
/// Fields that can hold the expected answer. The first field that is present is used.
const EXPECTED_FIELDS: [&str; 4] = ["expected", "label", "answer", "output"];

/// A request with its expected answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LabelledRequest {
    /// Line number in the file, from 1.
    pub(super) line: usize,
    /// Messages as the API expects them.
    pub(super) messages: Value,
    pub(super) expected: Value,
}

/// The fields to read from each line. `None`: the usual ones.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FieldNames<'a> {
    pub(super) request: Option<&'a str>,
    pub(super) expected: Option<&'a str>,
}

/// Parses labelled requests, and samples `limit` of them evenly if there are more.
///
/// # Errors
/// Returns an error with the line number if a line is not a labelled request, and an error if there
/// are no requests.
pub(super) fn parse(
    text: &str,
    fields: FieldNames<'_>,
    limit: Option<usize>,
) -> anyhow::Result<Vec<LabelledRequest>> {
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    let mut requests = Vec::new();
    for (line, text) in lines.filter(|(_, text)| !text.trim().is_empty()) {
        let request = parse_line(line, text, fields);
        requests.push(request.with_context(|| format!("line {line}"))?);
    }
    if requests.is_empty() {
        bail!("the file contains no requests");
    }
    Ok(match limit {
        Some(limit) if limit < requests.len() => sample_evenly(requests, limit),
        _ => requests,
    })
}

/// Returns the last request of each of `count` equal parts.
fn sample_evenly(requests: Vec<LabelledRequest>, count: usize) -> Vec<LabelledRequest> {
    let total = requests.len();
    let sample = requests.into_iter().enumerate();
    let sample = sample.filter(|(index, _)| index * count / total != (index + 1) * count / total);
    sample.map(|(_, request)| request).collect()
}

fn parse_line(line: usize, text: &str, fields: FieldNames<'_>) -> anyhow::Result<LabelledRequest> {
    let value: Value = serde_json::from_str(text).context("not a JSON object")?;
    let find = |name: Option<&str>, usual: &[&str], noun: &str, flag: &str| {
        let mut names = name.map_or(usual.to_vec(), |name| vec![name]).into_iter();
        let field = names.find_map(|name| value.get(name));
        field.cloned().with_context(|| {
            let names = name.map_or(usual.join(", "), str::to_owned);
            format!("no field with the {noun} (tried {names}); set its name with {flag}")
        })
    };
    let messages = match find(
        fields.request,
        &REQUEST_FIELDS,
        "request",
        "--request-field",
    )? {
        Value::String(text) => json!([{"role": "user", "content": text}]),
        messages @ Value::Array(_) => messages,
        other => bail!("the request must be a text or a list of messages, but is {other}"),
    };
    Ok(LabelledRequest {
        line,
        messages,
        expected: find(
            fields.expected,
            &EXPECTED_FIELDS,
            "expected answer",
            "--expected-field",
        )?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with_expected(
        text: &str,
        expected: Option<&str>,
        limit: Option<usize>,
    ) -> anyhow::Result<Vec<LabelledRequest>> {
        let fields = FieldNames {
            request: None,
            expected,
        };
        parse(text, fields, limit)
    }

    #[test]
    fn fields_have_their_usual_names_or_configured_ones() {
        let line = "{\"text\": \"hi\", \"label\": \"x\"}\n\n";
        let requests = parse_with_expected(line, None, None).unwrap();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].messages[0]["content"], "hi");
        let line = r#"{"prompt": "hi", "intent": 3}"#;
        assert_eq!(
            parse_with_expected(line, Some("intent"), None).unwrap()[0].expected,
            3
        );
        let error = format!("{:#}", parse_with_expected(line, None, None).unwrap_err());
        assert!(
            error.contains("line 1") && error.contains("--expected-field"),
            "{error}"
        );
        assert!(parse_with_expected("", None, None).is_err());
    }

    #[test]
    fn sample_is_even() {
        let text: String = (0..100)
            .map(|n| format!("{{\"text\": \"t\", \"label\": {n}}}\n"))
            .collect();
        let requests = parse_with_expected(&text, None, Some(4)).unwrap();
        let lines: Vec<_> = requests.iter().map(|request| request.line).collect();
        assert_eq!(lines, [25, 50, 75, 100]);
    }
}
