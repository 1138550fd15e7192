//! The kind `Router`: what happens to requests that fit no task well. One per fleet.

use serde::{Deserialize, Serialize};

use super::task::check_examples;
use super::{API_VERSION, Metadata, ValidationErrors};
use crate::energy::GridSpec;
use crate::{RouterName, TaskName};

/// How the fleet routes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Router {
    /// Always [`API_VERSION`].
    pub api_version: String,
    /// Always `Router`.
    pub kind: String,
    /// The name is always `default`: a fleet has one router.
    pub metadata: Metadata<RouterName>,
    #[serde(default)]
    pub spec: RouterSpec,
}

/// What a router does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RouterSpec {
    /// Does what the classifier abstains from. Without it such requests are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_task: Option<TaskName>,
    /// When the classifier abstains.
    pub abstain: AbstainRule,
    /// What the fleet's energy costs.
    #[serde(skip_serializing_if = "is_default")]
    pub grid: GridSpec,
    /// Requests that belong to no task, as users write them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

fn is_default(grid: &GridSpec) -> bool {
    *grid == GridSpec::default()
}

/// When the classifier abstains. In YAML exactly one of `below` and `cost`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "AbstainFields", into = "AbstainFields")]
pub enum AbstainRule {
    /// Below this confidence, 0 to 1.
    Below(f32),
    /// Below the confidence that this part (0 to 1) of the examples that belong to a task
    /// fall below when they are held out of training.
    Cost(f32),
}

impl Default for AbstainRule {
    fn default() -> Self {
        Self::Cost(0.02)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AbstainFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    below: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cost: Option<f32>,
}

impl TryFrom<AbstainFields> for AbstainRule {
    type Error = &'static str;
    fn try_from(fields: AbstainFields) -> Result<Self, Self::Error> {
        match (fields.below, fields.cost) {
            (Some(below), None) => Ok(Self::Below(below)),
            (None, Some(cost)) => Ok(Self::Cost(cost)),
            _ => Err("must have exactly one of: below, cost"),
        }
    }
}

impl From<AbstainRule> for AbstainFields {
    fn from(abstain: AbstainRule) -> Self {
        match abstain {
            AbstainRule::Below(below) => Self {
                below: Some(below),
                cost: None,
            },
            AbstainRule::Cost(cost) => Self {
                below: None,
                cost: Some(cost),
            },
        }
    }
}

impl Router {
    /// A router that does what `spec` says.
    #[must_use]
    pub fn new(spec: RouterSpec) -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: "Router".into(),
            metadata: Metadata {
                name: RouterName,
                labels: Default::default(),
            },
            spec,
        }
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Every fault, each with its field path.
    pub fn validate(&self) -> Result<(), ValidationErrors> {
        let mut faults = ValidationErrors::default();
        let (field, part) = match self.spec.abstain {
            AbstainRule::Below(below) => ("spec.abstain.below", below),
            AbstainRule::Cost(cost) => ("spec.abstain.cost", cost),
        };
        faults.check(
            !(0.0..=1.0).contains(&part),
            field,
            format!("must be between 0 and 1, is {part}"),
        );
        for (field, problem) in self.spec.grid.faults() {
            faults.check(true, &format!("spec.grid.{field}"), problem.to_owned());
        }
        check_examples(&mut faults, "spec.examples", &self.spec.examples);
        faults.into_result()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Resource, parse_yaml};
    use super::*;

    fn router(spec: &str) -> Result<RouterSpec, String> {
        let yaml = format!(
            "apiVersion: flotilla.dev/v1\nkind: Router\nmetadata: {{name: default}}\nspec: {spec}"
        );
        match parse_yaml(&yaml).map_err(|e| e.to_string())?.remove(0) {
            Resource::Router(router) => Ok(router.spec),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_is_read_and_written() {
        let spec = router("{defaultTask: chat, abstain: {below: 0.4}, examples: [hm]}").unwrap();
        assert_eq!(spec.abstain, AbstainRule::Below(0.4));
        let yaml = serde_yaml_ng::to_string(&Router::new(spec.clone())).unwrap();
        assert_eq!(
            parse_yaml(&yaml).unwrap(),
            [Resource::Router(Router::new(spec))]
        );
        assert_eq!(router("{}").unwrap().abstain, AbstainRule::Cost(0.02));
    }

    #[test]
    fn faults_are_named() {
        for (spec, part) in [
            ("{abstain: {below: 0.4, cost: 0.1}}", "exactly one of"),
            ("{abstain: {}}", "exactly one of"),
            (
                "{abstain: {cost: 2}}",
                "spec.abstain.cost must be between 0 and 1",
            ),
            (
                "{grid: {pricePerKwh: 0.3}}",
                "spec.grid.currency must say what pricePerKwh is in",
            ),
            ("{examples: [' ']}", "spec.examples[0] must not be empty"),
        ] {
            let text = router(spec).unwrap_err();
            assert!(text.contains(part), "{part} not in: {text}");
        }
    }

    #[test]
    fn there_is_one_router() {
        let yaml = "apiVersion: flotilla.dev/v1\nkind: Router\nmetadata: {name: mine}";
        let text = parse_yaml(yaml).unwrap_err().to_string();
        assert!(text.contains("must be 'default'"), "{text}");
    }
}
