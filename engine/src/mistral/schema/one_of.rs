//! Whether the alternatives of a `oneOf` exclude each other, so that the grammar of `anyOf` enforces it.

use serde_json::Value;

/// Whether no value can match both schemas: they have different types, or objects that must have a
/// property with different values. `follow` returns what a reference refers to.
pub(super) fn exclude_each_other<'a>(
    a: &'a Value,
    b: &'a Value,
    follow: &impl Fn(&'a Value) -> &'a Value,
) -> bool {
    let (a, b) = (follow(a), follow(b));
    if let (Some(a), Some(b)) = (values(a), values(b)) {
        return !a.iter().any(|value| b.contains(value));
    }
    match (types(a), types(b)) {
        (Some(a), Some(b)) if !a.iter().any(|a| b.iter().any(|b| overlap(a, b))) => return true,
        _ => {}
    }
    let (Some(a_required), Some(b_required)) = (array(a, "required"), array(b, "required")) else {
        return false;
    };
    let must_be_objects = [a, b]
        .iter()
        .all(|schema| types(schema) == Some(vec!["object"]));
    must_be_objects
        && a_required
            .iter()
            .filter(|key| b_required.contains(key))
            .any(|key| {
                let property = |schema: &'a Value| schema.get("properties")?.get(key.as_str()?);
                let values = |schema| property(schema).map(follow).and_then(values);
                match (values(a), values(b)) {
                    (Some(a), Some(b)) => !a.iter().any(|value| b.contains(value)),
                    _ => false,
                }
            })
}

/// The values that a schema lists.
fn values(schema: &Value) -> Option<Vec<&Value>> {
    match schema.get("const") {
        Some(value) => Some(vec![value]),
        None => array(schema, "enum").map(|values| values.iter().collect()),
    }
}

fn types(schema: &Value) -> Option<Vec<&str>> {
    match schema.get("type")? {
        Value::String(name) => Some(vec![name]),
        Value::Array(names) => names.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

fn overlap(a: &str, b: &str) -> bool {
    let numeric = |name| matches!(name, "integer" | "number");
    a == b || (numeric(a) && numeric(b))
}

fn array<'a>(schema: &'a Value, keyword: &str) -> Option<&'a Vec<Value>> {
    schema.get(keyword)?.as_array()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn types_values_and_discriminators_exclude_each_other() {
        let kind = |value: &str| json!({"type": "object", "properties": {"kind": {"const": value}}, "required": ["kind"]});
        let excluded = |a: &Value, b: &Value| {
            // The test's schemas have no references.
            exclude_each_other(a, b, &|schema| schema)
        };
        assert!(excluded(
            &json!({"type": "string"}),
            &json!({"type": "integer"})
        ));
        assert!(!excluded(
            &json!({"type": "number"}),
            &json!({"type": "integer"})
        ));
        assert!(excluded(&json!({"enum": [1, 2]}), &json!({"const": 3})));
        assert!(!excluded(&json!({"enum": [1, 2]}), &json!({"const": 2})));
        assert!(excluded(&kind("a"), &kind("b")));
        assert!(!excluded(&kind("a"), &kind("a")));
        assert!(!excluded(&kind("a"), &json!({"type": "object"})));
    }
}
