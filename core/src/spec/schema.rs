//! The JSON Schemas of the resources, derived from their types.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

/// Returns the JSON Schema (draft 2020-12) of a resource such as [`Model`](super::Model), for
/// editors and other programs. It accepts what serde accepts, and has the validation rules that a
/// schema can express. Quantities have their unit in the keyword `x-unit`.
///
/// ```
/// let schema = flotilla_core::spec::json_schema::<flotilla_core::spec::Model>();
/// assert_eq!(schema["title"], "Model");
/// ```
#[must_use]
pub fn json_schema<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    // The order must not depend on the features that other crates enable in serde_json.
    schema.sort_all_objects();
    tidy(&mut schema);
    schema
}

/// Adds the field `status`, which [`Resource::from_json`](super::Resource::from_json) ignores, to the
/// schema of a kind.
pub(super) fn add_status(schema: &mut Schema) {
    if let Some(Value::Object(fields)) = schema.get_mut("properties") {
        let description = "State in the fleet, as `flotilla get` prints it. It is ignored when the resource is applied.";
        fields.insert(
            "status".into(),
            json!({"type": "object", "description": description}),
        );
    }
}

/// Joins the lines of descriptions, which are wrapped as in the source, and prints 32-bit numbers
/// with the digits that they have in the source.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == "description" => {
                        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                    }
                    value => tidy(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Number(number) => {
            let exact = number.as_f64().filter(|_| number.is_f64());
            // Every number with a fraction is the default of an `f32` field.
            let short = exact.and_then(|number| (number as f32).to_string().parse().ok());
            if let Some(short) = short.and_then(serde_json::Number::from_f64) {
                *number = short;
            }
        }
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}
