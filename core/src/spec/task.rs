//! The kind `Task`: a class of requests, defined by examples, and the models that answer them.

use std::collections::BTreeSet;

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{API_VERSION, LearnSpec, Metadata, ValidationErrors};
use crate::admission::Priority;
use crate::routing::{AnswerLimits, CascadeSpec, ConfidenceThreshold, ObjectiveWeights};
use crate::{HumanDuration, Joules, ModelName, TaskName, ZoneName};

/// The resource that describes a class of requests and the models that answer them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = super::schema::add_status)]
pub struct Task {
    /// Version of the resource format. Always `flotilla.dev/v1`.
    #[schemars(extend("const" = API_VERSION))]
    pub api_version: String,
    /// Kind of the resource. Always `Task`.
    #[schemars(extend("const" = "Task"))]
    pub kind: String,
    /// Name and labels. Clients ask for a task with the model `task:NAME`; the model `auto` lets
    /// the classifier choose the task.
    pub metadata: Metadata<TaskName>,
    /// The desired state of the task.
    pub spec: TaskSpec,
}

/// The desired state of a task: the requests that belong to it, and how they are answered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(transform = add_cascade_rule, extend("required" = ["models"]))]
pub struct TaskSpec {
    /// What the task is about, for people. Default: empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Example requests that belong to the task, in the users' own words. The classifier learns
    /// from them. Default: none; the task then gets only requests that name it, and those that fit no
    /// task if it is the router's `defaultTask`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(regex(pattern = r"\S"), length(max = 10_000)))]
    pub examples: Vec<String>,
    /// Names of the models that answer the task's requests, at least one. They are in order of
    /// preference: a model is used if those before it cannot answer. With `objective.weights` the
    /// weights decide the preference. With `cascade` the models are its tiers, the smallest first.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub models: Vec<ModelName>,
    /// Goals for the answers: weights and limits of quality, latency and energy. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<ObjectiveSpec>,
    /// Cascade: the smallest model answers first, and a larger one if that answer is not confident
    /// enough. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cascade: Option<CascadeSpec>,
    /// Priority of the task's requests that do not set one themselves. Default: `normal`.
    #[serde(skip_serializing_if = "is_normal")]
    pub priority: Priority,
    /// Hedging: a second replica gets the request if the first one is slow. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<HedgeSpec>,
    /// Privacy zones in which the task's requests must stay. Default: empty, any node may answer.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(with = "Vec<ZoneName>")]
    pub zones: BTreeSet<ZoneName>,
    /// What controllers keep of the task's prompts and answers, to learn from. Requests that are held to
    /// privacy zones are never kept. Default: none, nothing is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learn: Option<LearnSpec>,
}

/// Adds the rule that a cascade has at least two models.
fn add_cascade_rule(schema: &mut Schema) {
    let rule = json!({
        "if": { "required": ["cascade"], "properties": { "cascade": { "type": "object" } } },
        "then": { "properties": { "models": { "minItems": 2 } } },
    });
    schema.insert("allOf".into(), json!([rule]));
}

fn is_normal(priority: &Priority) -> bool {
    *priority == Priority::Normal
}

/// The goals for the answers to a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObjectiveSpec {
    /// Weights of quality, latency and energy in the choice of model and replica. Default: none;
    /// models are then used in their order, and among replicas that answer about equally soon one
    /// with low energy is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<ObjectiveWeights>,
    /// Smallest measured quality of a model, 0 to 1. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_quality: Option<f32>,
    /// Longest predicted time until the answer is complete, such as `800ms`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency: Option<HumanDuration>,
    /// Largest predicted energy of the answer, in joules. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0, "x-unit" = "joules"))]
    pub max_joules: Option<Joules>,
}

impl ObjectiveSpec {
    /// Returns the limits of the objective.
    #[must_use]
    pub fn limits(self) -> AnswerLimits {
        AnswerLimits {
            min_quality: self.min_quality,
            max_latency: self.max_latency,
            max_joules: self.max_joules,
        }
    }

    fn validate(self, errors: &mut ValidationErrors) {
        if let Some(weights) = self.weights {
            let all = [weights.quality, weights.latency, weights.energy];
            errors.add_if(
                all.iter()
                    .any(|weight| !weight.is_finite() || *weight < 0.0),
                "spec.objective.weights",
                "must be 0 or more",
            );
            errors.add_if(
                all.iter().sum::<f32>() == 0.0,
                "spec.objective.weights",
                "must not all be 0",
            );
        }
        check_fraction(errors, "spec.objective.minQuality", self.min_quality);
        let joules = self.max_joules.map(|Joules(joules)| joules);
        errors.add_if(
            joules.is_some_and(|joules| !joules.is_finite() || joules <= 0.0),
            "spec.objective.maxJoules",
            "must be above 0",
        );
        errors.add_if(
            self.max_latency
                .is_some_and(|HumanDuration(longest)| longest.is_zero()),
            "spec.objective.maxLatency",
            "must be above 0",
        );
    }
}

/// The rule for sending a request to a second replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HedgeSpec {
    /// Time without a first token after which the request is also sent to a second, idle replica,
    /// such as `200ms`. The answer that starts first is used.
    pub after: HumanDuration,
}

/// Checks that a fraction, if set, is between 0 and 1.
fn check_fraction(errors: &mut ValidationErrors, field: &str, fraction: Option<f32>) {
    if let Some(fraction) = fraction {
        errors.add_if(
            !(0.0..=1.0).contains(&fraction),
            field,
            format!("must be between 0 and 1, is {fraction}"),
        );
    }
}

/// Largest size of an example, in bytes.
pub(crate) const MAX_EXAMPLE_BYTES: usize = 10_000;

/// Checks the examples in `field`.
pub(super) fn check_examples(errors: &mut ValidationErrors, field: &str, examples: &[String]) {
    for (index, example) in examples.iter().enumerate() {
        errors.add_if(
            example.trim().is_empty(),
            &format!("{field}[{index}]"),
            "must not be empty",
        );
        errors.add_if(
            example.len() > MAX_EXAMPLE_BYTES,
            &format!("{field}[{index}]"),
            format!(
                "must be at most {MAX_EXAMPLE_BYTES} bytes, is {}",
                example.len()
            ),
        );
    }
}

impl Task {
    /// Returns a task with this name and spec.
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

    /// Returns the task's name.
    #[must_use]
    pub fn name(&self) -> &TaskName {
        &self.metadata.name
    }

    /// Checks the rules that the types cannot express.
    ///
    /// # Errors
    /// All invalid fields, each with its path.
    pub fn validate(&self) -> Result<(), ValidationErrors> {
        let mut errors = ValidationErrors::default();
        let spec = &self.spec;
        check_examples(&mut errors, "spec.examples", &spec.examples);
        errors.add_if(
            spec.models.is_empty(),
            "spec.models",
            "must name at least one model",
        );
        for (index, model) in spec.models.iter().enumerate() {
            errors.add_if(
                spec.models[..index].contains(model),
                &format!("spec.models[{index}]"),
                format!("'{model}' is listed twice"),
            );
        }
        if let Some(objective) = spec.objective {
            objective.validate(&mut errors);
        }
        if let Some(cascade) = &spec.cascade {
            self.validate_cascade(cascade, &mut errors);
        }
        errors.add_if(
            spec.hedge.is_some_and(|hedge| hedge.after.0.is_zero()),
            "spec.hedge.after",
            "must be above 0",
        );
        if let Some(learn) = &spec.learn {
            learn.validate(&mut errors);
        }
        errors.into_result()
    }

    fn validate_cascade(&self, cascade: &CascadeSpec, errors: &mut ValidationErrors) {
        let models = &self.spec.models;
        errors.add_if(
            models.len() < 2,
            "spec.cascade",
            "needs at least two models, the smallest first",
        );
        let mut check = |field: &str, accept: ConfidenceThreshold| {
            check_fraction(errors, &format!("{field}.atLeast"), Some(accept.at_least));
        };
        check("spec.cascade.accept", cascade.accept);
        for (model, accept) in &cascade.tiers {
            check(&format!("spec.cascade.tiers.{model}"), *accept);
        }
        let smaller = models.split_last().map_or(&[][..], |(_, smaller)| smaller);
        for model in cascade.tiers.keys() {
            errors.add_if(
                !smaller.contains(model),
                &format!("spec.cascade.tiers.{model}"),
                "must be one of spec.models, and not the last one: its answer is always kept",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Resource, parse_yaml};
    use super::*;

    fn task(spec: &str) -> Result<Task, String> {
        let yaml =
            format!("apiVersion: flotilla.dev/v1\nkind: Task\nmetadata: {{name: t}}\nspec: {spec}");
        match parse_yaml(&yaml).map_err(|e| e.to_string())?.remove(0) {
            Resource::Task(task) => Ok(task),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn task_round_trips_through_yaml() {
        let before =
            task("{description: d, examples: [freeze my card], models: [a, b], zones: [clinic]}")
                .unwrap();
        assert_eq!(before.spec.models.len(), 2);
        let yaml = serde_yaml_ng::to_string(&before).unwrap();
        assert_eq!(parse_yaml(&yaml).unwrap(), [Resource::Task(before)]);
    }

    #[test]
    fn all_invalid_fields_are_reported() {
        let text = task("{examples: ['', x], models: [a, b, a]}").unwrap_err();
        assert_eq!(
            text,
            "spec.examples[0] must not be empty; spec.models[2] 'a' is listed twice"
        );
        let text = task("{examples: [x]}").unwrap_err();
        assert_eq!(text, "spec.models must name at least one model");
    }

    #[test]
    fn objective_cascade_and_hedge_are_read_and_validated() {
        let spec = "{models: [s, m], priority: high, hedge: {after: 200ms}, \
            objective: {weights: {quality: 1, energy: 0.5}, minQuality: 0.9, maxLatency: 800ms, maxJoules: 3}, \
            cascade: {accept: {measure: mean, atLeast: 0.9}, tiers: {s: {atLeast: 0.7}}, schema: {type: object}}}";
        let before = task(spec).unwrap();
        let objective = before.spec.objective.unwrap();
        assert_eq!(objective.limits().min_quality, Some(0.9));
        assert_eq!(objective.weights.unwrap().latency, 0.0);
        let cascade = before.spec.cascade.as_ref().unwrap();
        assert_eq!(cascade.threshold(&before.spec.models[0]).at_least, 0.7);
        assert_eq!(before.spec.priority, Priority::High);
        let yaml = serde_yaml_ng::to_string(&before).unwrap();
        assert_eq!(parse_yaml(&yaml).unwrap(), [Resource::Task(before)]);

        for (spec, part) in [
            (
                "{models: [s], cascade: {}}",
                "spec.cascade needs at least two",
            ),
            (
                "{models: [s, m], cascade: {tiers: {m: {atLeast: 0.5}}}}",
                "spec.cascade.tiers.m must be one of",
            ),
            (
                "{models: [s, m], cascade: {accept: {atLeast: 2}}}",
                "spec.cascade.accept.atLeast must be between 0 and 1",
            ),
            (
                "{models: [s], objective: {weights: {}}}",
                "spec.objective.weights must not all be 0",
            ),
            (
                "{models: [s], objective: {minQuality: 90}}",
                "spec.objective.minQuality must be between",
            ),
            (
                "{models: [s], objective: {maxJoules: 0}}",
                "spec.objective.maxJoules must be above 0",
            ),
            (
                "{models: [s], hedge: {after: 0s}}",
                "spec.hedge.after must be above 0",
            ),
        ] {
            let text = task(spec).unwrap_err();
            assert!(text.contains(part), "{part} not in: {text}");
        }
    }

    #[test]
    fn names_reserved_for_routing_are_rejected() {
        for name in ["none", "auto"] {
            assert!(TaskName::new(name).is_err(), "{name}");
        }
    }
}
