//! The kind `Task`: what people ask for, told by examples, and the models that do it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{API_VERSION, Metadata, ValidationErrors};
use crate::admission::Priority;
use crate::routing::{AnswerLimits, CascadeSpec, ConfidenceThreshold, ObjectiveWeights};
use crate::{HumanDuration, Joules, ModelName, TaskName, ZoneName};

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
    /// it cannot. With an objective that has weights it decides which one is preferred, with a
    /// cascade they are its tiers, the smallest first.
    pub models: Vec<ModelName>,
    /// What is wanted of its answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<ObjectiveSpec>,
    /// A small model answers first, a larger one where it is not sure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cascade: Option<CascadeSpec>,
    /// How urgent its requests are, unless they say so themselves.
    #[serde(skip_serializing_if = "is_normal")]
    pub priority: Priority,
    /// A second replica is asked beside one that takes long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<HedgeSpec>,
    /// Requests of this task are answered on nodes in these privacy zones only. Empty: on any
    /// node.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub zones: BTreeSet<ZoneName>,
}

fn is_normal(priority: &Priority) -> bool {
    *priority == Priority::Normal
}

/// What is wanted of the answers to a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ObjectiveSpec {
    /// What counts how much in choosing among the models and replicas. Without it the models come
    /// in their order, and of the replicas that answer soon one that takes little energy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<ObjectiveWeights>,
    /// Measured quality that a model must have, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_quality: Option<f32>,
    /// Longest predicted time to the end of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency: Option<HumanDuration>,
    /// Most joules that the answer is predicted to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_joules: Option<Joules>,
}

impl ObjectiveSpec {
    /// The hard limits of it.
    #[must_use]
    pub fn limits(self) -> AnswerLimits {
        AnswerLimits {
            min_quality: self.min_quality,
            max_latency: self.max_latency,
            max_joules: self.max_joules,
        }
    }

    fn validate(self, faults: &mut ValidationErrors) {
        if let Some(weights) = self.weights {
            let all = [weights.quality, weights.latency, weights.energy];
            faults.add_if(
                all.iter()
                    .any(|weight| !weight.is_finite() || *weight < 0.0),
                "spec.objective.weights",
                "must be 0 or more",
            );
            faults.add_if(
                all.iter().sum::<f32>() == 0.0,
                "spec.objective.weights",
                "must not all be 0",
            );
        }
        check_part(faults, "spec.objective.minQuality", self.min_quality);
        let joules = self.max_joules.map(|Joules(joules)| joules);
        faults.add_if(
            joules.is_some_and(|joules| !joules.is_finite() || joules <= 0.0),
            "spec.objective.maxJoules",
            "must be above 0",
        );
        faults.add_if(
            self.max_latency
                .is_some_and(|HumanDuration(longest)| longest.is_zero()),
            "spec.objective.maxLatency",
            "must be above 0",
        );
    }
}

/// When a second replica is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HedgeSpec {
    /// When the first one has not begun to answer after so long, and another one has nothing else
    /// to do.
    pub after: HumanDuration,
}

fn check_part(faults: &mut ValidationErrors, field: &str, part: Option<f32>) {
    if let Some(part) = part {
        faults.add_if(
            !(0.0..=1.0).contains(&part),
            field,
            format!("must be between 0 and 1, is {part}"),
        );
    }
}

/// Longest example, in bytes: more is a document, not a request.
const LONGEST_EXAMPLE: usize = 10_000;

/// Checks examples in `field`.
pub(super) fn check_examples(faults: &mut ValidationErrors, field: &str, examples: &[String]) {
    for (number, example) in examples.iter().enumerate() {
        faults.add_if(
            example.trim().is_empty(),
            &format!("{field}[{number}]"),
            "must not be empty",
        );
        faults.add_if(
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
    pub fn validate(&self) -> Result<(), ValidationErrors> {
        let mut faults = ValidationErrors::default();
        let spec = &self.spec;
        check_examples(&mut faults, "spec.examples", &spec.examples);
        faults.add_if(
            spec.models.is_empty(),
            "spec.models",
            "must name at least one model",
        );
        for (number, model) in spec.models.iter().enumerate() {
            faults.add_if(
                spec.models[..number].contains(model),
                &format!("spec.models[{number}]"),
                format!("'{model}' is named before"),
            );
        }
        if let Some(objective) = spec.objective {
            objective.validate(&mut faults);
        }
        if let Some(cascade) = &spec.cascade {
            self.validate_cascade(cascade, &mut faults);
        }
        faults.add_if(
            spec.hedge.is_some_and(|hedge| hedge.after.0.is_zero()),
            "spec.hedge.after",
            "must be above 0",
        );
        faults.into_result()
    }

    fn validate_cascade(&self, cascade: &CascadeSpec, faults: &mut ValidationErrors) {
        let models = &self.spec.models;
        faults.add_if(
            models.len() < 2,
            "spec.cascade",
            "needs at least two models, the smallest first",
        );
        let mut check = |field: &str, accept: ConfidenceThreshold| {
            check_part(faults, &format!("{field}.atLeast"), Some(accept.at_least));
        };
        check("spec.cascade.accept", cascade.accept);
        for (model, accept) in &cascade.tiers {
            check(&format!("spec.cascade.tiers.{model}"), *accept);
        }
        let smaller = models.split_last().map_or(&[][..], |(_, smaller)| smaller);
        for model in cascade.tiers.keys() {
            faults.add_if(
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
    fn goals_are_read_and_checked() {
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
    fn names_that_routing_needs_are_refused() {
        for name in ["none", "auto"] {
            assert!(TaskName::new(name).is_err(), "{name}");
        }
    }
}
