//! Whether the alternatives of a `oneOf` exclude each other, so that the grammar of `anyOf` enforces it.

use serde_json::Value;

use super::SchemaError;
use super::limits::{Budget, steps_of_text};

/// Whether no value can match two of the alternatives: any two have different types or values, or are
/// objects that must have a property with different values. `follow` returns what a reference refers to,
/// `path` is the field that an error names.
///
/// # Errors
/// When the budget has no steps left.
pub(super) fn exclude_each_other<'a, F>(
    alternatives: &'a [Value],
    follow: F,
    path: &str,
    budget: &mut Budget,
) -> Result<bool, SchemaError>
where
    F: Fn(&'a Value, &mut Budget) -> Result<&'a Value, SchemaError>,
{
    let alternatives = alternatives
        .iter()
        .map(|schema| Alternative::new(schema, &follow, path, budget))
        .collect::<Result<Vec<_>, _>>()?;
    for (index, a) in alternatives.iter().enumerate() {
        for b in &alternatives[index + 1..] {
            if !a.excludes(b, path, budget)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// What an alternative says by which it can exclude another.
struct Alternative<'a> {
    /// The values that it lists.
    values: Option<Vec<&'a Value>>,
    types: Option<Vec<&'a str>>,
    /// The properties that its values must have, each with those that it lists for it. Empty unless all its
    /// values are objects.
    required: Vec<(&'a str, Vec<&'a Value>)>,
}

impl<'a> Alternative<'a> {
    fn new(
        schema: &'a Value,
        follow: impl Fn(&'a Value, &mut Budget) -> Result<&'a Value, SchemaError>,
        path: &str,
        budget: &mut Budget,
    ) -> Result<Self, SchemaError> {
        let schema = follow(schema, budget)?;
        let types = types(schema, path, budget)?;
        let mut required = Vec::new();
        if types.as_deref() == Some(&["object"])
            && let Some(names) = array(schema, "required")
            && let Some(properties) = schema.get("properties")
        {
            for name in names.iter().filter_map(Value::as_str) {
                budget.take_steps(steps_of_text(name), path)?;
                if let Some(property) = properties.get(name)
                    && let Some(values) = values(follow(property, budget)?, path, budget)?
                {
                    required.push((name, values));
                }
            }
        }
        Ok(Self {
            values: values(schema, path, budget)?,
            types,
            required,
        })
    }

    /// Whether no value can match both alternatives.
    fn excludes(&self, other: &Self, path: &str, budget: &mut Budget) -> Result<bool, SchemaError> {
        budget.take_steps(1, path)?;
        if let (Some(a), Some(b)) = (&self.values, &other.values) {
            return are_disjoint(a, b, path, budget);
        }
        if let (Some(a), Some(b)) = (&self.types, &other.types) {
            budget.take_steps(a.len().saturating_mul(b.len()), path)?;
            if !a.iter().any(|a| b.iter().any(|b| overlap(a, b))) {
                return Ok(true);
            }
        }
        for (name, values) in &self.required {
            for (other_name, other_values) in &other.required {
                budget.take_steps(steps_of_text(name), path)?;
                if name == other_name && are_disjoint(values, other_values, path, budget)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// Whether two lists have no value in common.
fn are_disjoint(
    a: &[&Value],
    b: &[&Value],
    path: &str,
    budget: &mut Budget,
) -> Result<bool, SchemaError> {
    for value in a {
        let steps = steps_of_value(value).saturating_mul(b.len());
        budget.take_steps(steps, path)?;
        if b.contains(value) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The number of steps in which a value is compared with another.
fn steps_of_value(value: &Value) -> usize {
    match value {
        Value::String(text) => steps_of_text(text),
        Value::Array(items) => 1 + items.iter().map(steps_of_value).sum::<usize>(),
        Value::Object(fields) => {
            let fields = fields.iter();
            1 + fields
                .map(|(name, value)| steps_of_text(name) + steps_of_value(value))
                .sum::<usize>()
        }
        _ => 1,
    }
}

/// The values that a schema lists.
fn values<'a>(
    schema: &'a Value,
    path: &str,
    budget: &mut Budget,
) -> Result<Option<Vec<&'a Value>>, SchemaError> {
    if let Some(value) = schema.get("const") {
        return Ok(Some(vec![value]));
    }
    let Some(values) = array(schema, "enum") else {
        return Ok(None);
    };
    budget.take_steps(values.len(), path)?;
    Ok(Some(values.iter().collect()))
}

fn types<'a>(
    schema: &'a Value,
    path: &str,
    budget: &mut Budget,
) -> Result<Option<Vec<&'a str>>, SchemaError> {
    Ok(match schema.get("type") {
        Some(Value::String(name)) => Some(vec![name]),
        Some(Value::Array(names)) => {
            budget.take_steps(names.len(), path)?;
            names.iter().map(Value::as_str).collect()
        }
        _ => None,
    })
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
        let excluded = |a: Value, b: Value| {
            // The test's schemas have no references.
            let follow = |schema, _: &mut Budget| Ok(schema);
            exclude_each_other(&[a, b], follow, "", &mut Budget::default()).unwrap()
        };
        assert!(excluded(
            json!({"type": "string"}),
            json!({"type": "integer"})
        ));
        assert!(!excluded(
            json!({"type": "number"}),
            json!({"type": "integer"})
        ));
        assert!(excluded(json!({"enum": [1, 2]}), json!({"const": 3})));
        assert!(!excluded(json!({"enum": [1, 2]}), json!({"const": 2})));
        assert!(excluded(kind("a"), kind("b")));
        assert!(!excluded(kind("a"), kind("a")));
        assert!(!excluded(kind("a"), json!({"type": "object"})));
    }

    #[test]
    fn every_comparison_takes_steps() {
        let numbers: Vec<u32> = (0..1_100).collect();
        let large = |last: u32| json!({"const": [vec![0; 50_000], last]});
        for alternatives in [
            (0..1_100).map(|n| json!({"const": n})).collect::<Vec<_>>(),
            // The second list has none of the first one's values.
            vec![json!({"enum": numbers}), json!({"enum": vec!["x"; 1_100]})],
            (0..10).map(large).collect(),
        ] {
            let follow = |schema, _: &mut Budget| Ok(schema);
            let checked = exclude_each_other(&alternatives, follow, "p", &mut Budget::default());
            assert!(checked.is_err());
        }
        let usual: Vec<Value> = (0..900).map(|n| json!({"const": n})).collect();
        let follow = |schema, _: &mut Budget| Ok(schema);
        let checked = exclude_each_other(&usual, follow, "p", &mut Budget::default());
        assert_eq!(checked, Ok(true));
    }
}
