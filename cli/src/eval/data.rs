//! Labelled requests, one JSON object a line.

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Fields that may hold the request, in this order.
const ASKED: [&str; 5] = ["messages", "text", "prompt", "question", "input"];
/// Fields that may hold the right answer, in this order.
const EXPECTED: [&str; 4] = ["expected", "label", "answer", "output"];

/// A request whose right answer is known.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    /// Its line in the file, from 1.
    pub(super) line: usize,
    /// As the API takes them.
    pub(super) messages: Value,
    pub(super) expected: Value,
}

/// The labelled requests of a text: all, or `most` of them drawn evenly over it. `asked` and
/// `expected` name the fields, which otherwise are looked for.
pub(super) fn parse(
    text: &str,
    (asked, expected): (Option<&str>, Option<&str>),
    most: Option<usize>,
) -> anyhow::Result<Vec<Item>> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line));
    let mut items = Vec::new();
    for (line, text) in lines.filter(|(_, text)| !text.trim().is_empty()) {
        let item = item(line, text, asked, expected);
        items.push(item.with_context(|| format!("line {line}"))?);
    }
    if items.is_empty() {
        bail!("there are no requests");
    }
    Ok(match most {
        Some(most) if most < items.len() => evenly(items, most),
        _ => items,
    })
}

fn evenly(items: Vec<Item>, most: usize) -> Vec<Item> {
    let total = items.len();
    let picked = items.into_iter().enumerate();
    // One in each of so many equal parts.
    let picked = picked.filter(|(n, _)| n * most / total != (n + 1) * most / total);
    picked.map(|(_, item)| item).collect()
}

fn item(
    line: usize,
    text: &str,
    asked: Option<&str>,
    expected: Option<&str>,
) -> anyhow::Result<Item> {
    let value: Value = serde_json::from_str(text).context("not a JSON object")?;
    let find = |named: Option<&str>, usual: &[&str], what: &str, flag: &str| {
        let mut names = named.map_or(usual.to_vec(), |name| vec![name]).into_iter();
        let found = names.find_map(|name| value.get(name));
        found.cloned().with_context(|| {
            let names = named.map_or(usual.join(", "), str::to_owned);
            format!("there is no {what} (looked for: {names}; {flag} names the field)")
        })
    };
    let messages = match find(asked, &ASKED, "request", "--text")? {
        Value::String(text) => json!([{"role": "user", "content": text}]),
        messages @ Value::Array(_) => messages,
        other => bail!("the request must be a text or messages, is {other}"),
    };
    Ok(Item {
        line,
        messages,
        expected: find(expected, &EXPECTED, "right answer", "--expect")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(
        text: &str,
        expected: Option<&str>,
        most: Option<usize>,
    ) -> anyhow::Result<Vec<Item>> {
        parse(text, (None, expected), most)
    }

    #[test]
    fn requests_and_answers_are_found_by_their_usual_names_or_by_given_ones() {
        let items = read_text("{\"text\": \"hi\", \"label\": \"x\"}\n\n", None, None).unwrap();
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].messages[0]["content"], "hi");
        let line = r#"{"prompt": "hi", "intent": 3}"#;
        assert_eq!(
            read_text(line, Some("intent"), None).unwrap()[0].expected,
            3
        );
        let error = format!("{:#}", read_text(line, None, None).unwrap_err());
        assert!(
            error.contains("line 1") && error.contains("--expect"),
            "{error}"
        );
        assert!(read_text("", None, None).is_err());
    }

    #[test]
    fn a_part_is_drawn_evenly() {
        let text: String = (0..100)
            .map(|n| format!("{{\"text\": \"t\", \"label\": {n}}}\n"))
            .collect();
        let items = read_text(&text, None, Some(4)).unwrap();
        let lines: Vec<_> = items.iter().map(|item| item.line).collect();
        assert_eq!(lines, [25, 50, 75, 100]);
    }
}
