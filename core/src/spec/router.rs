//! The kind `Router`: how the fleet routes requests that match no task well. One per fleet.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::task::check_examples;
use super::{API_VERSION, Metadata, ValidationErrors};
use crate::energy::GridSpec;
use crate::{ModelName, RouterName, TaskName};

/// The resource that configures routing for the whole fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = super::schema::add_status)]
pub struct Router {
    /// Version of the resource format. Always `flotilla.dev/v1`.
    #[schemars(extend("const" = API_VERSION))]
    pub api_version: String,
    /// Kind of the resource. Always `Router`.
    #[schemars(extend("const" = "Router"))]
    pub kind: String,
    /// Name and labels. The name is always `default`, because a fleet has one router.
    pub metadata: Metadata<RouterName>,
    /// The desired configuration. Default: all defaults.
    #[serde(default)]
    pub spec: RouterSpec,
}

/// The desired configuration of routing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RouterSpec {
    /// Task that handles the requests from which the classifier abstains. Default: none; such
    /// requests are rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_task: Option<TaskName>,
    /// Rule by which the classifier abstains from naming a task. Default:
    /// `falseAbstentionRate: 0.02`.
    pub abstain: AbstainRule,
    /// Price and carbon intensity of the fleet's electricity, in total and per zone. Default:
    /// not known; energy is then reported in joules only.
    #[serde(skip_serializing_if = "is_default")]
    pub grid: GridSpec,
    /// Example requests that belong to no task, in the users' own words. The classifier learns
    /// from them when to abstain. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(regex(pattern = r"\S"), length(max = 10_000)))]
    pub examples: Vec<String>,
    /// Model that makes vectors of sentences (pipeline `embedding`), for requests that the classifier
    /// is unsure of. Such a request waits up to 50 ms for it. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<ModelName>,
}

fn is_default(grid: &GridSpec) -> bool {
    *grid == GridSpec::default()
}

/// The rule by which the classifier abstains from naming a task. YAML has exactly one of
/// `minConfidence` and `falseAbstentionRate`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "AbstainFields", into = "AbstainFields")]
pub enum AbstainRule {
    /// The classifier abstains when its confidence is below this value, 0 to 1.
    MinConfidence(f32),
    /// The confidence threshold is chosen in training so that the classifier abstains from this
    /// fraction (0 to 1) of the held-out examples that do belong to a task.
    FalseAbstentionRate(f32),
}

impl Default for AbstainRule {
    fn default() -> Self {
        Self::FalseAbstentionRate(0.02)
    }
}

/// The rule by which the classifier abstains from naming a task: exactly one of `minConfidence` and
/// `falseAbstentionRate`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "AbstainRule", transform = add_abstain_rule)]
struct AbstainFields {
    /// The classifier abstains when its confidence is below this value, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    min_confidence: Option<f32>,
    /// The confidence threshold is chosen in training so that the classifier abstains from this
    /// fraction (0 to 1) of the held-out examples that do belong to a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    false_abstention_rate: Option<f32>,
}

/// Adds the rule of `TryFrom<AbstainFields>`: exactly one of the fields.
fn add_abstain_rule(schema: &mut Schema) {
    let rules = ["minConfidence", "falseAbstentionRate"]
        .map(|field| json!({ "required": [field], "properties": { field: { "type": "number" } } }));
    schema.insert("oneOf".into(), rules.to_vec().into());
}

impl TryFrom<AbstainFields> for AbstainRule {
    type Error = &'static str;
    fn try_from(fields: AbstainFields) -> Result<Self, Self::Error> {
        match (fields.min_confidence, fields.false_abstention_rate) {
            (Some(confidence), None) => Ok(Self::MinConfidence(confidence)),
            (None, Some(rate)) => Ok(Self::FalseAbstentionRate(rate)),
            _ => Err("must have exactly one of: minConfidence, falseAbstentionRate"),
        }
    }
}

impl From<AbstainRule> for AbstainFields {
    fn from(abstain: AbstainRule) -> Self {
        let (min_confidence, false_abstention_rate) = match abstain {
            AbstainRule::MinConfidence(confidence) => (Some(confidence), None),
            AbstainRule::FalseAbstentionRate(rate) => (None, Some(rate)),
        };
        Self {
            min_confidence,
            false_abstention_rate,
        }
    }
}

impl Router {
    /// Returns a router with this spec.
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

    /// Checks the rules that the types cannot express.
    ///
    /// # Errors
    /// All invalid fields, each with its path.
    pub fn validate(&self) -> Result<(), ValidationErrors> {
        let mut errors = ValidationErrors::default();
        let (field, fraction) = match self.spec.abstain {
            AbstainRule::MinConfidence(confidence) => ("spec.abstain.minConfidence", confidence),
            AbstainRule::FalseAbstentionRate(rate) => ("spec.abstain.falseAbstentionRate", rate),
        };
        errors.add_if(
            !(0.0..=1.0).contains(&fraction),
            field,
            format!("must be between 0 and 1, is {fraction}"),
        );
        for (field, problem) in self.spec.grid.faults() {
            errors.add(&format!("spec.grid.{field}"), problem);
        }
        check_examples(&mut errors, "spec.examples", &self.spec.examples);
        errors.into_result()
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
    fn router_round_trips_through_yaml() {
        let spec = router(
            "{defaultTask: chat, abstain: {minConfidence: 0.4}, examples: [hm], encoder: minilm}",
        )
        .unwrap();
        assert_eq!(spec.encoder, Some(ModelName::new("minilm").unwrap()));
        assert_eq!(spec.abstain, AbstainRule::MinConfidence(0.4));
        let yaml = serde_yaml_ng::to_string(&Router::new(spec.clone())).unwrap();
        assert_eq!(
            parse_yaml(&yaml).unwrap(),
            [Resource::Router(Router::new(spec))]
        );
        assert_eq!(
            router("{}").unwrap().abstain,
            AbstainRule::FalseAbstentionRate(0.02)
        );
    }

    #[test]
    fn invalid_fields_are_named() {
        for (spec, message) in [
            (
                "{abstain: {minConfidence: 0.4, falseAbstentionRate: 0.1}}",
                "exactly one of",
            ),
            ("{abstain: {}}", "exactly one of"),
            (
                "{abstain: {falseAbstentionRate: 2}}",
                "spec.abstain.falseAbstentionRate must be between 0 and 1",
            ),
            (
                "{grid: {pricePerKwh: 0.3}}",
                "spec.grid.currency must say what pricePerKwh is in",
            ),
            ("{examples: [' ']}", "spec.examples[0] must not be empty"),
        ] {
            let text = router(spec).unwrap_err();
            assert!(text.contains(message), "{message} not in: {text}");
        }
    }

    #[test]
    fn router_name_must_be_default() {
        let yaml = "apiVersion: flotilla.dev/v1\nkind: Router\nmetadata: {name: mine}";
        let text = parse_yaml(yaml).unwrap_err().to_string();
        assert!(text.contains("must be 'default'"), "{text}");
    }
}
