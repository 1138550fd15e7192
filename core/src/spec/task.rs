//! The kind `Task`: what people ask for, told by examples, and the models that do it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{API_VERSION, Faults, Metadata};
use crate::{ModelName, TaskName, ZoneName};

/// Something that requests ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Task {
    /// Always [`API_VERSION`].
    pub api_version: String,
    /// Always `Task`.
    pub kind: String,
    pub metadata: Metadata<TaskName>,
    pub spec: TaskSpec,
}

/// How a task is told from others, and who does it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TaskSpec {
    /// What it is about, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Requests that belong to it, as users write them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
    /// The models that do it, the preferred one first. The next one answers where those before
    /// it cannot.
    pub models: Vec<ModelName>,
    /// Requests of this task are answered on nodes in these privacy zones only. Empty: on any
    /// node.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub zones: BTreeSet<ZoneName>,
}

/// Longest example, in bytes: more is a document, not a request.
const LONGEST_EXAMPLE: usize = 10_000;

/// Checks examples in `field`.
pub(super) fn check_examples(faults: &mut Faults, field: &str, examples: &[String]) {
    for (number, example) in examples.iter().enumerate() {
        faults.check(
            example.trim().is_empty(),
            &format!("{field}[{number}]"),
            "must not be empty",
        );
        faults.check(
            example.len() > LONGEST_EXAMPLE,
            &format!("{field}[{number}]"),
            format!(
                "must be at most {LONGEST_EXAMPLE} bytes, is {}",
                example.len()
            ),
        );
    }
}

impl Task {
    /// A task called `name`.
    #[must_use]
    pub fn new(name: TaskName, spec: TaskSpec) -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: "Task".into(),
            metadata: Metadata {
                name,
                labels: Default::default(),
            },
            spec,
        }
    }

    /// The task's name.
    #[must_use]
    pub fn name(&self) -> &TaskName {
        &self.metadata.name
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Every fault, each with its field path.
    pub fn validate(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let spec = &self.spec;
        check_examples(&mut faults, "spec.examples", &spec.examples);
        faults.check(
            spec.models.is_empty(),
            "spec.models",
            "must name at least one model",
        );
        for (number, model) in spec.models.iter().enumerate() {
            faults.check(
                spec.models[..number].contains(model),
                &format!("spec.models[{number}]"),
                format!("'{model}' is named before"),
            );
        }
        faults.into_result()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Resource, parse_yaml};
    use super::*;

    fn task(spec: &str) -> Result<Task, String> {
        let yaml =
            format!("apiVersion: flotilla/v1\nkind: Task\nmetadata: {{name: t}}\nspec: {spec}");
        match parse_yaml(&yaml).map_err(|e| e.to_string())?.remove(0) {
            Resource::Task(task) => Ok(task),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_is_read_and_written() {
        let before =
            task("{description: d, examples: [freeze my card], models: [a, b], zones: [clinic]}")
                .unwrap();
        assert_eq!(before.spec.models.len(), 2);
        let yaml = serde_yaml_ng::to_string(&before).unwrap();
        assert_eq!(parse_yaml(&yaml).unwrap(), [Resource::Task(before)]);
    }

    #[test]
    fn every_fault_is_reported() {
        let text = task("{examples: ['', x], models: [a, b, a]}").unwrap_err();
        assert_eq!(
            text,
            "spec.examples[0] must not be empty; spec.models[2] 'a' is named before"
        );
        let text = task("{examples: [x]}").unwrap_err();
        assert_eq!(text, "spec.models must name at least one model");
    }

    #[test]
    fn names_that_routing_needs_are_refused() {
        for name in ["none", "auto"] {
            assert!(TaskName::new(name).is_err(), "{name}");
        }
    }
}
