//! The fields in which two versions of a resource differ.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Largest number of characters of a value in a [`FieldChange`].
const MAX_VALUE_CHARS: usize = 60;

/// A field whose value changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// Path of the field, such as `spec.replicas.min`.
    pub field: String,
    /// The value before, as JSON and cut off if it is long. `None`: it was not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The value afterwards, in the same form. `None`: it is not set any more, so that its default applies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Whether the document that was applied does not name the field: it gets its default.
    #[serde(default)]
    pub by_default: bool,
}

/// Returns the fields in which `after` differs from `before`, in the order of their paths. Lists are
/// compared as a whole. `document` is what the user wrote; fields that it does not name change by default.
#[must_use]
pub fn changed_fields(before: &Value, after: &Value, document: &Value) -> Vec<FieldChange> {
    let mut changes = Vec::new();
    compare("", Some(before), Some(after), Some(document), &mut changes);
    changes
}

fn compare(
    path: &str,
    before: Option<&Value>,
    after: Option<&Value>,
    document: Option<&Value>,
    changes: &mut Vec<FieldChange>,
) {
    if before == after {
        return;
    }
    if let (Some(Value::Object(old)), Some(Value::Object(new))) = (before, after) {
        let added = new.keys().filter(|name| !old.contains_key(*name));
        let mut names: Vec<&String> = old.keys().chain(added).collect();
        names.sort_unstable();
        for name in names {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            let field = document.and_then(|document| document.get(name));
            compare(&path, old.get(name), new.get(name), field, changes);
        }
        return;
    }
    changes.push(FieldChange {
        field: path.to_owned(),
        before: before.map(shorten),
        after: after.map(shorten),
        by_default: document.is_none(),
    });
}

/// Returns a value as JSON, with at most [`MAX_VALUE_CHARS`] characters.
fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(MAX_VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn changed_fields_are_named_and_those_that_the_user_did_not_write_are_marked() {
        let before = json!({"spec": {"abstain": {"minConfidence": 0.3}, "examples": ["a"], "defaultTask": "t"}});
        let after = json!({"spec": {"abstain": {"falseAbstentionRate": 0.02}, "examples": ["b", "c"], "defaultTask": "t"}});
        let document = json!({"spec": {"examples": ["b", "c"], "defaultTask": "t"}});
        let changes = changed_fields(&before, &after, &document);
        let shown: Vec<_> = changes
            .iter()
            .map(|c| {
                (
                    &*c.field,
                    c.before.as_deref(),
                    c.after.as_deref(),
                    c.by_default,
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("spec.abstain.falseAbstentionRate", None, Some("0.02"), true),
                ("spec.abstain.minConfidence", Some("0.3"), None, true),
                (
                    "spec.examples",
                    Some("[\"a\"]"),
                    Some("[\"b\",\"c\"]"),
                    false
                ),
            ]
        );
        let long = json!({"spec": "é".repeat(100)});
        let change = &changed_fields(&json!({}), &long, &long)[0];
        assert_eq!(
            change.after.as_ref().unwrap().chars().count(),
            MAX_VALUE_CHARS + 1
        );
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (0..3).prop_map(|n| json!(n))
        ];
        leaf.prop_recursive(3, 20, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::btree_map("[ab]", inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn there_are_changes_exactly_if_the_values_differ(before in values(), after in values()) {
            let changes = changed_fields(&before, &after, &after);
            prop_assert_eq!(changes.is_empty(), before == after);
        }
    }
}
