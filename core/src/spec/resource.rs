//! The envelope that all kinds share, and the conversion of YAML and JSON into resources.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::json::ClientJson;
use crate::known_fields::read_known_fields;

use super::{FieldError, Model, Router, Task, ValidationErrors};

/// The version of the resource format.
pub const API_VERSION: &str = "flotilla.dev/v1";

/// The names of all kinds.
pub const KINDS: [&str; 3] = ["Model", "Task", "Router"];

/// The name and the labels of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Metadata")]
pub struct Metadata<N> {
    /// Name, unique among the resources of the kind: at most 63 lower-case letters, digits, `-`,
    /// `_` and `.`.
    pub name: N,
    /// Free key-value pairs for selecting and grouping resources. Default: empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A resource of any kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, try_from = "Value")]
// Resources are few and short-lived, so the size of the largest variant does not matter.
#[allow(clippy::large_enum_variant)]
pub enum Resource {
    /// A model to serve.
    Model(Model),
    /// A task that requests are routed by.
    Task(Task),
    /// The fleet's router.
    Router(Router),
}

/// The error returned when a text does not hold valid resources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// The text is not YAML.
    #[error("not valid YAML: {0}")]
    Yaml(String),
    /// A resource has invalid fields.
    #[error(transparent)]
    Invalid(#[from] ValidationErrors),
}

impl Resource {
    /// Reads and validates a resource from its JSON form. A `status`, which resources have that were
    /// read from a fleet, is ignored.
    ///
    /// # Errors
    /// All invalid fields, each with its path. After an error of shape (a string where a number
    /// belongs, an unknown field) no further errors are looked for.
    pub fn from_json(value: Value) -> Result<Self, ValidationErrors> {
        Self::read(value, &mut FieldPolicy::KnownOnly)
    }

    /// Reads and validates a resource that another version may have stored. Returns it with the paths
    /// of the fields that this version does not know, which are left out.
    ///
    /// # Errors
    /// Those of [`Resource::from_json`], except for unknown fields.
    pub fn from_stored_json(value: Value) -> Result<(Self, Vec<String>), ValidationErrors> {
        let mut policy = FieldPolicy::LeaveOut(Vec::new());
        let resource = Self::read(value, &mut policy)?;
        Ok(match policy {
            FieldPolicy::KnownOnly => (resource, Vec::new()),
            FieldPolicy::LeaveOut(unknown) => (resource, unknown),
        })
    }

    fn read(mut value: Value, policy: &mut FieldPolicy) -> Result<Self, ValidationErrors> {
        if let Value::Object(fields) = &mut value
            && fields.get("status").is_some_and(Value::is_object)
        {
            fields.remove("status");
        }
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let mut errors = ValidationErrors::default();
        match text("apiVersion") {
            Some(API_VERSION) => {}
            Some(other) => errors.add(
                "apiVersion",
                format!("must be '{API_VERSION}', is '{other}'"),
            ),
            None => errors.add("apiVersion", format!("is missing: write '{API_VERSION}'")),
        }
        let kind = text("kind").unwrap_or_default().to_owned();
        if !KINDS.contains(&kind.as_str()) {
            let known = format!("use '{}'", KINDS.join("', '"));
            let problem = match kind.as_str() {
                "" => format!("is missing: {known}"),
                other => format!("'{other}' is not a kind: {known}"),
            };
            errors.add("kind", problem);
        }
        errors.into_result()?;
        Ok(match kind.as_str() {
            "Task" => {
                let task: Task = policy.deserialize(value)?;
                task.validate()?;
                Self::Task(task)
            }
            "Router" => {
                let router: Router = policy.deserialize(value)?;
                router.validate()?;
                Self::Router(router)
            }
            _ => {
                let model: Model = policy.deserialize(value)?;
                model.validate()?;
                Self::Model(model)
            }
        })
    }

    /// Returns the name of the kind, as in YAML.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Model(_) => "Model",
            Self::Task(_) => "Task",
            Self::Router(_) => "Router",
        }
    }

    /// Returns the error for a resource that is not of the `expected` kind.
    fn kind_error(&self, expected: &str) -> ValidationErrors {
        let problem = format!("must be '{expected}' here, is '{}'", self.kind());
        ValidationErrors(vec![FieldError::new("kind", problem)])
    }

    /// Returns the resource's name.
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
            other => Err(other.kind_error("Model")),
        }
    }
}

impl TryFrom<Resource> for Task {
    type Error = ValidationErrors;
    fn try_from(resource: Resource) -> Result<Self, ValidationErrors> {
        match resource {
            Resource::Task(task) => Ok(task),
            other => Err(other.kind_error("Task")),
        }
    }
}

impl TryFrom<Resource> for Router {
    type Error = ValidationErrors;
    fn try_from(resource: Resource) -> Result<Self, ValidationErrors> {
        match resource {
            Resource::Router(router) => Ok(router),
            other => Err(other.kind_error("Router")),
        }
    }
}

/// What is done about fields that this version does not know.
enum FieldPolicy {
    /// They are errors.
    KnownOnly,
    /// They are left out, and their paths are collected.
    LeaveOut(Vec<String>),
}

impl FieldPolicy {
    /// Deserializes a value; an error has the path of the field that caused it.
    fn deserialize<T: serde::de::DeserializeOwned>(
        &mut self,
        value: Value,
    ) -> Result<T, ValidationErrors> {
        let read = match self {
            Self::KnownOnly => {
                serde_path_to_error::deserialize(ClientJson(value)).map_err(|error| {
                    let field = error.path().to_string();
                    FieldError::new(field, error.into_inner().to_string())
                })
            }
            Self::LeaveOut(unknown) => read_known_fields(value).map(|(read, mut fields)| {
                unknown.append(&mut fields);
                read
            }),
        };
        read.map_err(|error| ValidationErrors(vec![error]))
    }
}

/// Reads and validates the resources of a YAML text with one or more documents, each a resource or a
/// list of resources. Empty documents are skipped.
///
/// # Errors
/// [`ResourceError::Yaml`] if the text is not YAML, [`ResourceError::Invalid`] with all invalid
/// fields of the first resource that is not valid.
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

/// Returns the resources in the documents of a YAML text without validation, for callers that change
/// them before [`Resource::from_json`]. A document may be a list of resources, or an object with such a
/// list as `items`. Empty documents are skipped.
///
/// # Errors
/// [`ResourceError::Yaml`] if the text is not YAML.
pub fn parse_documents(text: &str) -> Result<Vec<Value>, ResourceError> {
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    let mut documents: Vec<_> = documents
        .collect::<Result<_, _>>()
        .map_err(|e: serde_yaml_ng::Error| ResourceError::Yaml(e.to_string()))?;
    documents.retain(|value| !value.is_null());
    Ok(documents.into_iter().flat_map(list_items).collect())
}

/// Returns the items of a list, and any other document as it is.
fn list_items(document: Value) -> Vec<Value> {
    match document {
        Value::Array(items) => items,
        Value::Object(mut fields) if !fields.contains_key("spec") => match fields.remove("items") {
            Some(Value::Array(items)) => items,
            Some(other) => {
                fields.insert("items".into(), other);
                vec![Value::Object(fields)]
            }
            None => vec![Value::Object(fields)],
        },
        other => vec![other],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(yaml: &str) -> String {
        parse_yaml(yaml).unwrap_err().to_string()
    }

    #[test]
    fn empty_documents_are_skipped() {
        let one = "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {name: a}\nspec: {engine: simulated}";
        let resources = parse_yaml(&format!("---\n{one}\n---\n---\n{one}\n")).unwrap();
        assert_eq!(resources.len(), 2);
    }

    #[test]
    fn lists_are_read_and_the_status_of_a_resource_is_ignored() {
        let one = "{apiVersion: flotilla.dev/v1, kind: Model, metadata: {name: a}, \
            spec: {engine: simulated}, status: {ready: 1}}";
        for text in [
            format!("[{one}, {one}]"),
            format!("{{items: [{one}, {one}], notes: [hello]}}"),
            format!("kind: List\nitems: [{one}, {one}]"),
            format!("{one}\n---\n- {one}"),
        ] {
            assert_eq!(parse_yaml(&text).unwrap().len(), 2, "{text}");
        }
        assert!(error("items: 1").starts_with("apiVersion is missing"));
    }

    #[test]
    fn invalid_envelope_reports_all_errors() {
        assert_eq!(
            error("apiVersion: v1\nkind: Pod"),
            "apiVersion must be 'flotilla.dev/v1', is 'v1'; kind 'Pod' is not a kind: \
             use 'Model', 'Task', 'Router'"
        );
    }

    #[test]
    fn unknown_field_is_reported_with_its_path() {
        let yaml =
            "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {name: a}\nspec: {replica: 2}";
        let text = error(yaml);
        assert!(text.starts_with("spec.replica unknown field"), "{text}");
    }

    #[test]
    fn stored_resource_of_a_later_version_is_read_without_its_unknown_fields() {
        let yaml = "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {name: a}\n\
            spec: {engine: simulated, newer: {x: 1}}";
        let value = parse_documents(yaml).unwrap().remove(0);
        assert!(Resource::from_json(value.clone()).is_err());
        let (resource, unknown) = Resource::from_stored_json(value).unwrap();
        assert_eq!(
            (resource.name(), unknown),
            ("a", vec!["spec.newer".to_owned()])
        );
        // What it does know must be valid all the same.
        let yaml = "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {name: a}\n\
            spec: {engine: simulated, newer: 1, concurrency: 0}";
        let value = parse_documents(yaml).unwrap().remove(0);
        assert!(Resource::from_stored_json(value).is_err());
    }

    #[test]
    fn broken_yaml_is_an_error() {
        assert!(matches!(parse_yaml("a: [1"), Err(ResourceError::Yaml(_))));
    }
}
