//! The envelope all kinds share, and how YAML becomes resources.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Fault, Faults, Model};

/// The one version of the resource format.
pub const API_VERSION: &str = "flotilla/v1";

/// Who a resource is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata<N> {
    /// Unique among resources of its kind.
    pub name: N,
    /// Free key-value pairs for selecting and grouping.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A resource of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    Model(Model),
}

/// Why a text holds no valid resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    #[error("not valid YAML: {0}")]
    Yaml(String),
    #[error(transparent)]
    Invalid(#[from] Faults),
}

impl Resource {
    /// Reads one resource from its JSON form.
    ///
    /// # Errors
    /// Every fault found, each with its field path. A fault of shape (a string where a number
    /// belongs, an unknown field) stops the reading at the first one.
    pub fn from_json(value: Value) -> Result<Self, Faults> {
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let mut faults = Faults::default();
        match text("apiVersion") {
            Some(API_VERSION) => {}
            Some(other) => faults.check(
                true,
                "apiVersion",
                format!("must be '{API_VERSION}', is '{other}'"),
            ),
            None => faults.check(
                true,
                "apiVersion",
                format!("is missing: write '{API_VERSION}'"),
            ),
        }
        let kind = match text("kind") {
            Some("Model") => Some(()),
            Some(other) => {
                faults.check(true, "kind", format!("'{other}' is not known: use 'Model'"));
                None
            }
            None => {
                faults.check(true, "kind", "is missing: use 'Model'");
                None
            }
        };
        if kind.is_none() {
            return Err(faults);
        }
        faults.into_result()?;
        let model: Model = read(value)?;
        model.validate()?;
        Ok(Self::Model(model))
    }

    /// The kind's name, as in YAML.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Model(_) => "Model",
        }
    }
}

/// Deserializes with the path of the field that is wrong.
fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Faults> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        Faults(vec![Fault::new(field, error.into_inner().to_string())])
    })
}

/// Reads the resources of a YAML text of one or more documents. Empty documents are skipped.
///
/// # Errors
/// [`ResourceError::Yaml`] when the text is not YAML, [`ResourceError::Invalid`] with every
/// fault when a resource is not valid.
///
/// ```
/// let yaml = "
/// apiVersion: flotilla/v1
/// kind: Model
/// metadata: { name: echo }
/// spec: { engine: null }
/// ";
/// let resources = flotilla_core::spec::parse_yaml(yaml).unwrap();
/// assert_eq!(resources[0].kind(), "Model");
/// ```
pub fn parse_yaml(text: &str) -> Result<Vec<Resource>, ResourceError> {
    let mut resources = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|e| ResourceError::Yaml(e.to_string()))?;
        if !value.is_null() {
            resources.push(Resource::from_json(value)?);
        }
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(yaml: &str) -> String {
        parse_yaml(yaml).unwrap_err().to_string()
    }

    #[test]
    fn several_documents_are_read_and_empty_ones_skipped() {
        let one = "apiVersion: flotilla/v1\nkind: Model\nmetadata: {name: a}\nspec: {engine: null}";
        let resources = parse_yaml(&format!("---\n{one}\n---\n---\n{one}\n")).unwrap();
        assert_eq!(resources.len(), 2);
    }

    #[test]
    fn a_wrong_envelope_names_all_its_faults() {
        assert_eq!(
            faults("apiVersion: v1\nkind: Pod"),
            "apiVersion must be 'flotilla/v1', is 'v1'; kind 'Pod' is not known: use 'Model'"
        );
    }

    #[test]
    fn an_unknown_field_is_named_with_its_path() {
        let yaml = "apiVersion: flotilla/v1\nkind: Model\nmetadata: {name: a}\nspec: {replica: 2}";
        let text = faults(yaml);
        assert!(text.starts_with("spec.replica unknown field"), "{text}");
    }

    #[test]
    fn broken_yaml_is_an_error_not_a_panic() {
        assert!(matches!(parse_yaml("a: [1"), Err(ResourceError::Yaml(_))));
    }
}
