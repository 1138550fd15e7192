//! Finds the metrics and labels in a PromQL expression. It knows only the part of the language that this
//! needs; Prometheus itself checks the syntax.

use std::collections::BTreeSet;

/// The names in an expression.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ReferencedNames {
    pub(super) metrics: BTreeSet<String>,
    pub(super) labels: BTreeSet<String>,
}

/// Keywords that stand before a list of labels.
const LABEL_LIST_KEYWORDS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
/// Keywords that stand between expressions.
const OPERATOR_KEYWORDS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

/// Returns the metrics and labels in an expression, or in a line of the text format of metrics.
pub(super) fn referenced_names(expression: &str) -> ReferencedNames {
    let mut names = ReferencedNames::default();
    let mut rest = expression;
    let (mut in_braces, mut in_list, mut list_follows) = (false, false, false);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => {
                let text = quoted(rest);
                // An argument of `label_replace` that is a label, not `"$1"` or a pattern.
                if !in_braces && is_name(text) {
                    names.labels.insert(text.to_owned());
                }
                text.len() + 2
            }
            '[' => rest.find(']').map_or(rest.len(), |end| end + 1),
            // A number, or a duration.
            '0'..='9' => word(rest, |c| c.is_ascii_alphanumeric() || c == '.').len(),
            _ if is_name_char(first) || first == ':' => {
                let word = word(rest, |c| is_name_char(c) || c == ':');
                let next = rest[word.len()..].trim_start();
                if in_braces || in_list {
                    names.labels.insert(word.to_owned());
                } else if LABEL_LIST_KEYWORDS.contains(&word) {
                    list_follows = next.starts_with('(');
                } else if !OPERATOR_KEYWORDS.contains(&word) && !is_operation(next) {
                    names.metrics.insert(word.to_owned());
                }
                word.len()
            }
            _ => {
                match first {
                    '{' => in_braces = true,
                    '}' => in_braces = false,
                    '(' if list_follows => (in_list, list_follows) = (true, false),
                    ')' => in_list = false,
                    _ => {}
                }
                first.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    names
}

/// Whether a word is a function or an aggregation, from the text that follows it.
fn is_operation(next: &str) -> bool {
    next.starts_with('(') || next.starts_with("by ") || next.starts_with("without ")
}

/// Returns the text between the quotes at the start of `text`.
fn quoted(text: &str) -> &str {
    let quote = &text[..1];
    let mut escaped = false;
    let end = text[1..].find(|c: char| {
        let ends = !escaped && quote.starts_with(c);
        escaped = c == '\\' && !escaped;
        ends
    });
    &text[1..1 + end.expect("the quotes are closed")]
}

/// Returns the longest start of `text` whose characters all satisfy `is_part`.
fn word(text: &str, is_part: impl Fn(char) -> bool) -> &str {
    &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())]
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(is_name_char)
}

#[test]
fn metrics_and_labels_are_found_among_everything_else() {
    let expression = r#"
        sum by (a, b) (label_replace(rate(x_total{c!="d, e", f=~"\"g"}[5m]), "h", "$1", "i", "(.+)"))
        / on (a) group_left (b) topk by (a) (1, y:z:max offset 1d >= bool 0.5) or vector(0)"#;
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let expected = ReferencedNames {
        metrics: owned(&["x_total", "y:z:max"]),
        labels: owned(&["a", "b", "c", "f", "h", "i"]),
    };
    assert_eq!(referenced_names(expression), expected);
}
