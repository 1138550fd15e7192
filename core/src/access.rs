//! What the requests of an API key may use, as a value that travels with each request.
//!
//! Permission is decided once, where a request enters. Nothing further in knows keys: the plan of a request is held
//! to the scope of its route.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{ModelName, TaskName, ZoneName};

/// The zones, models and tasks that requests may use. Each `None` is no restriction.
///
/// A later version may restrict more: a scope with a field that this version does not know is an error, so that no
/// restriction is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessScope {
    /// The privacy zones whose nodes may answer. Requests are held to them as to the zones of a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zones: Option<BTreeSet<ZoneName>>,
    /// The models that may answer, whether a request names them or a task chooses them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<BTreeSet<ModelName>>,
    /// The tasks that requests may name, and that `auto` chooses from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<BTreeSet<TaskName>>,
}

impl AccessScope {
    /// Whether the scope restricts nothing.
    #[must_use]
    pub fn is_unrestricted(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a model may answer.
    #[must_use]
    pub fn allows_model(&self, model: &ModelName) -> bool {
        self.models
            .as_ref()
            .is_none_or(|models| models.contains(model))
    }

    /// Whether a request may belong to a task.
    #[must_use]
    pub fn allows_task(&self, task: &TaskName) -> bool {
        self.tasks.as_ref().is_none_or(|tasks| tasks.contains(task))
    }

    /// Whether a task with these models may be used: it is allowed itself, and one of its models is.
    #[must_use]
    pub fn allows_task_with<'a>(
        &self,
        task: &TaskName,
        models: impl IntoIterator<Item = &'a ModelName>,
    ) -> bool {
        self.allows_task(task) && models.into_iter().any(|model| self.allows_model(model))
    }

    /// Narrows the zones that a request may enter. `None` is any node, in the argument as in the result; an empty set
    /// is no node.
    #[must_use]
    pub fn narrow_zones(&self, zones: Option<BTreeSet<ZoneName>>) -> Option<BTreeSet<ZoneName>> {
        match (&self.zones, zones) {
            (None, zones) => zones,
            (Some(allowed), None) => Some(allowed.clone()),
            (Some(allowed), Some(zones)) => Some(&zones & allowed),
        }
    }
}

/// The restrictions as a person reads them, such as `models a, b; zones clinic`.
impl fmt::Display for AccessScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn part<T: fmt::Display>(kind: &str, names: Option<&BTreeSet<T>>) -> Option<String> {
            let names: Vec<_> = names?.iter().map(ToString::to_string).collect();
            Some(format!("{kind} {}", names.join(", ")))
        }
        let parts = [
            part("models", self.models.as_ref()),
            part("tasks", self.tasks.as_ref()),
            part("zones", self.zones.as_ref()),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        f.write_str(&if parts.is_empty() {
            "all".to_owned()
        } else {
            parts.join("; ")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(names: &[&str]) -> BTreeSet<ZoneName> {
        names
            .iter()
            .map(|name| ZoneName::new(name).unwrap())
            .collect()
    }

    #[test]
    fn zones_are_narrowed_and_never_widened() {
        let scope = AccessScope {
            zones: Some(zones(&["a", "b"])),
            ..AccessScope::default()
        };
        assert_eq!(scope.narrow_zones(None), Some(zones(&["a", "b"])));
        assert_eq!(
            scope.narrow_zones(Some(zones(&["b", "c"]))),
            Some(zones(&["b"]))
        );
        assert_eq!(scope.narrow_zones(Some(zones(&["c"]))), Some(zones(&[])));
        assert_eq!(AccessScope::default().narrow_zones(None), None);
    }

    #[test]
    fn a_task_needs_a_model_that_the_scope_allows() {
        let model = |name: &str| ModelName::new(name).unwrap();
        let task = TaskName::new("t").unwrap();
        let scope = AccessScope {
            models: Some([model("small")].into()),
            ..AccessScope::default()
        };
        assert!(scope.allows_task_with(&task, &[model("small"), model("large")]));
        assert!(!scope.allows_task_with(&task, &[model("large")]));
        assert_eq!(scope.to_string(), "models small");
        assert_eq!(AccessScope::default().to_string(), "all");
    }

    #[test]
    fn a_restriction_of_a_later_version_is_an_error_and_not_ignored() {
        let read = serde_json::from_str::<AccessScope>(r#"{"regions": ["eu"]}"#);
        assert!(read.is_err());
    }
}
