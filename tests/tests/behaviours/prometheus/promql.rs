//! Which metrics and which labels an expression for Prometheus names. It knows as much of the
//! language as that takes: Prometheus itself says whether the expression is right.

use std::collections::BTreeSet;

/// What an expression names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) metrics: BTreeSet<String>,
    pub(super) labels: BTreeSet<String>,
}

/// Words before a list of labels.
const BEFORE_LABELS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
/// Words between expressions.
const BETWEEN: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

/// What an expression, or a line of the text format, names.
pub(super) fn named(expression: &str) -> Named {
    let mut named = Named::default();
    let mut rest = expression;
    let (mut in_braces, mut in_list, mut list_comes) = (false, false, false);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => {
                let text = quoted(rest);
                // A label as `label_replace` is told of it; `"$1"` and patterns are none.
                if !in_braces && is_name(text) {
                    named.labels.insert(text.to_owned());
                }
                text.len() + 2
            }
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            // A number, or a duration.
            '0'..='9' => word(rest, |c| c.is_ascii_alphanumeric() || c == '.').len(),
            _ if is_of_name(first) || first == ':' => {
                let word = word(rest, |c| is_of_name(c) || c == ':');
                let next = rest[word.len()..].trim_start();
                if in_braces || in_list {
                    named.labels.insert(word.to_owned());
                } else if BEFORE_LABELS.contains(&word) {
                    list_comes = next.starts_with('(');
                } else if !BETWEEN.contains(&word) && !is_operation(next) {
                    named.metrics.insert(word.to_owned());
                }
                word.len()
            }
            _ => {
                match first {
                    '{' => in_braces = true,
                    '}' => in_braces = false,
                    '(' if list_comes => (in_list, list_comes) = (true, false),
                    ')' => in_list = false,
                    _ => {}
                }
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    named
}

/// Whether what comes before this is a function or an aggregation.
fn is_operation(next: &str) -> bool {
    next.starts_with('(') || next.starts_with("by ") || next.starts_with("without ")
}

/// What is between the quotes that this begins with.
fn quoted(text: &str) -> &str {
    let quote = &text[..1];
    let mut escaped = false;
    let end = text[1..].find(|c: char| {
        let ends = !escaped && quote.starts_with(c);
        escaped = c == '\\' && !escaped;
        ends
    });
    &text[1..1 + end.expect("a text ends")]
}

fn word(text: &str, is_part: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())]
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(is_of_name)
}

#[test]
fn metrics_and_labels_are_told_from_all_else() {
    let expression = r#"
        sum by (a, b) (label_replace(rate(x_total{c!="d, e", f=~"\"g"}[5m]), "h", "$1", "i", "(.+)"))
        / on (a) group_left (b) topk by (a) (1, y:z:max offset 1d >= bool 0.5) or vector(0)"#;
    let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let wanted = Named {
        metrics: of(&["x_total", "y:z:max"]),
        labels: of(&["a", "b", "c", "f", "h", "i"]),
    };
    assert_eq!(named(expression), wanted);
}
