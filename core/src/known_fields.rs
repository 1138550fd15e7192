//! Reads JSON that a later version wrote, as far as this version understands it.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::json::ClientJson;
use crate::spec::FieldError;

/// The most unknown fields that are left out of one value.
const MAX_UNKNOWN: usize = 64;
/// How serde's errors about an unknown field begin.
const UNKNOWN_FIELD: &str = "unknown field";

/// Reads a value and leaves out the fields that its type does not know, at any depth. Returns it with
/// their paths.
///
/// # Errors
/// The first error of another kind, with the path of its field.
pub fn read_known_fields<T: DeserializeOwned>(
    mut value: Value,
) -> Result<(T, Vec<String>), FieldError> {
    let mut unknown = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(ClientJson(&value)) {
            Ok(read) => return Ok((read, unknown)),
            Err(error) => error,
        };
        let path = error.path().clone();
        let problem = error.into_inner().to_string();
        let is_unknown = problem.starts_with(UNKNOWN_FIELD) && unknown.len() < MAX_UNKNOWN;
        if !is_unknown || !remove(&mut value, &path) {
            return Err(FieldError::new(path.to_string(), problem));
        }
        unknown.push(path.to_string());
    }
}

/// Removes the field at `path`. Returns whether there was one.
fn remove(value: &mut Value, path: &Path) -> bool {
    let mut segments = path.iter().peekable();
    let mut parent = value;
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let child = match segment {
            Segment::Map { key } if is_last => {
                let fields = parent.as_object_mut();
                return fields.is_some_and(|fields| fields.remove(key).is_some());
            }
            Segment::Map { key } => parent.get_mut(key),
            Segment::Enum { variant } => parent.get_mut(variant),
            Segment::Seq { index } => parent.get_mut(*index),
            Segment::Unknown => None,
        };
        let Some(child) = child else {
            return false;
        };
        parent = child;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Model;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_left_out_at_any_depth_and_named() {
        let value = json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model", "new": {"a": 1},
            "metadata": {"name": "m", "annotations": {}},
            "spec": {
                "engine": "simulated", "warm": true,
                "tolerations": [{"key": "a"}, {"key": "b", "for": "1m"}],
            },
        });
        let (model, unknown): (Model, _) = read_known_fields(value).unwrap();
        assert_eq!(model.spec.tolerations.len(), 2);
        let expected = [
            "new",
            "metadata.annotations",
            "spec.warm",
            "spec.tolerations[1].for",
        ];
        assert_eq!(unknown.len(), expected.len(), "{unknown:?}");
        for path in expected {
            assert!(
                unknown.iter().any(|field| field == path),
                "{path}: {unknown:?}"
            );
        }
    }

    #[test]
    fn value_that_is_not_understood_is_an_error_with_its_field() {
        let value = json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": "m"},
            "spec": {"engine": "of a later version"},
        });
        let error = read_known_fields::<Model>(value).unwrap_err();
        assert!(error.to_string().starts_with("spec.engine"), "{error}");
        let many: serde_json::Map<_, _> = (0..100).map(|i| (format!("f{i}"), json!(1))).collect();
        assert!(read_known_fields::<Model>(Value::Object(many)).is_err());
    }
}
