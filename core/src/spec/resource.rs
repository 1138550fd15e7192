//! The envelope all kinds share, and how YAML becomes resources.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FieldError, Model, Router, Task, ValidationErrors};

/// The one version of the resource format.
pub const API_VERSION: &str = "flotilla.dev/v1";

/// The kinds of resources there are.
const KINDS: [&str; 3] = ["Model", "Task", "Router"];

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, try_from = "Value")]
// Read one at a time and taken apart at once: what the smaller ones leave empty costs nothing.
#[allow(clippy::large_enum_variant)]
pub enum Resource {
    Model(Model),
    Task(Task),
    Router(Router),
}

/// Why a text holds no valid resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    #[error("not valid YAML: {0}")]
    Yaml(String),
    #[error(transparent)]
    Invalid(#[from] ValidationErrors),
}

impl Resource {
    /// Reads one resource from its JSON form.
    ///
    /// # Errors
    /// Every fault found, each with its field path. A fault of shape (a string where a number
    /// belongs, an unknown field) stops the reading at the first one.
    pub fn from_json(value: Value) -> Result<Self, ValidationErrors> {
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let mut faults = ValidationErrors::default();
        match text("apiVersion") {
            Some(API_VERSION) => {}
            Some(other) => faults.add_if(
                true,
                "apiVersion",
                format!("must be '{API_VERSION}', is '{other}'"),
            ),
            None => faults.add_if(
                true,
                "apiVersion",
                format!("is missing: write '{API_VERSION}'"),
            ),
        }
        let kind = text("kind").unwrap_or_default().to_owned();
        if !KINDS.contains(&kind.as_str()) {
            let known = format!("use '{}'", KINDS.join("', '"));
            let problem = match kind.as_str() {
                "" => format!("is missing: {known}"),
                other => format!("'{other}' is not known: {known}"),
            };
            faults.add_if(true, "kind", problem);
        }
        faults.into_result()?;
        Ok(match kind.as_str() {
            "Task" => {
                let task: Task = read(value)?;
                task.validate()?;
                Self::Task(task)
            }
            "Router" => {
                let router: Router = read(value)?;
                router.validate()?;
                Self::Router(router)
            }
            _ => {
                let model: Model = read(value)?;
                model.validate()?;
                Self::Model(model)
            }
        })
    }

    /// The kind's name, as in YAML.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Model(_) => "Model",
            Self::Task(_) => "Task",
            Self::Router(_) => "Router",
        }
    }

    fn is_not(&self, wanted: &str) -> ValidationErrors {
        let problem = format!("must be '{wanted}' here, is '{}'", self.kind());
        ValidationErrors(vec![FieldError::new("kind", problem)])
    }

    /// The resource's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Model(model) => model.name().as_str(),
            Self::Task(task) => task.name().as_str(),
            Self::Router(router) => router.metadata.name.as_str(),
        }
    }
}

impl TryFrom<Value> for Resource {
    type Error = ValidationErrors;
    fn try_from(value: Value) -> Result<Self, ValidationErrors> {
        Self::from_json(value)
    }
}

impl TryFrom<Resource> for Model {
    type Error = ValidationErrors;
    fn try_from(resource: Resource) -> Result<Self, ValidationErrors> {
        match resource {
            Resource::Model(model) => Ok(model),
            other => Err(other.is_not("Model")),
        }
    }
}

impl TryFrom<Resource> for Task {
    type Error = ValidationErrors;
    fn try_from(resource: Resource) -> Result<Self, ValidationErrors> {
        match resource {
            Resource::Task(task) => Ok(task),
            other => Err(other.is_not("Task")),
        }
    }
}

impl TryFrom<Resource> for Router {
    type Error = ValidationErrors;
    fn try_from(resource: Resource) -> Result<Self, ValidationErrors> {
        match resource {
            Resource::Router(router) => Ok(router),
            other => Err(other.is_not("Router")),
        }
    }
}

/// Deserializes with the path of the field that is wrong.
fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, ValidationErrors> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        ValidationErrors(vec![FieldError::new(field, error.into_inner().to_string())])
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
/// apiVersion: flotilla.dev/v1
/// kind: Model
/// metadata: { name: echo }
/// spec: { engine: simulated }
/// ";
/// let resources = flotilla_core::spec::parse_yaml(yaml).unwrap();
/// assert_eq!(resources[0].kind(), "Model");
/// ```
pub fn parse_yaml(text: &str) -> Result<Vec<Resource>, ResourceError> {
    let resources = parse_documents(text)?.into_iter().map(Resource::from_json);
    Ok(resources.collect::<Result<_, _>>()?)
}

/// The documents of a YAML text, unchecked, for whoever completes them before they are read as
/// resources. Empty ones are skipped.
///
/// # Errors
/// [`ResourceError::Yaml`] when the text is not YAML.
pub fn parse_documents(text: &str) -> Result<Vec<Value>, ResourceError> {
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    let mut documents: Vec<_> = documents
        .collect::<Result<_, _>>()
        .map_err(|e: serde_yaml_ng::Error| ResourceError::Yaml(e.to_string()))?;
    documents.retain(|value| !value.is_null());
    Ok(documents)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(yaml: &str) -> String {
        parse_yaml(yaml).unwrap_err().to_string()
    }

    #[test]
    fn several_documents_are_read_and_empty_ones_skipped() {
        let one = "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {name: a}\nspec: {engine: simulated}";
        let resources = parse_yaml(&format!("---\n{one}\n---\n---\n{one}\n")).unwrap();
        assert_eq!(resources.len(), 2);
    }

    #[test]
    fn a_wrong_envelope_names_all_its_faults() {
        assert_eq!(
            faults("apiVersion: v1\nkind: Pod"),
            "apiVersion must be 'flotilla.dev/v1', is 'v1'; kind 'Pod' is not known: \
             use 'Model', 'Task', 'Router'"
        );
    }

    #[test]
    fn an_unknown_field_is_named_with_its_path() {
        let yaml =
            "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {name: a}\nspec: {replica: 2}";
        let text = faults(yaml);
        assert!(text.starts_with("spec.replica unknown field"), "{text}");
    }

    #[test]
    fn broken_yaml_is_an_error_not_a_panic() {
        assert!(matches!(parse_yaml("a: [1"), Err(ResourceError::Yaml(_))));
    }
}
