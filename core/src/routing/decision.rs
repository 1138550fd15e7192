//! The record of a routing decision: what was chosen, from what, and why. It holds nothing of
//! the prompt but n-grams that are in the tasks' own examples.

use serde::{Deserialize, Serialize};

use super::{Evidence, Load, Ranked, Verdict};
use crate::{ModelName, NodeName, TaskName, ZoneName};

/// A routing decision, as far as it is known before anything was sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// The `model` field of the request.
    pub requested: String,
    /// The task that was chosen. `None` where the request named a model.
    pub task: Option<TaskName>,
    /// What the classifier said; `None` where it was not asked.
    #[serde(flatten)]
    pub classified: Option<Classified>,
    /// Only nodes in these privacy zones may answer. Empty: any node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<ZoneName>,
    pub model: Option<ModelName>,
    pub node: Option<NodeName>,
    /// Replicas that could answer and were compared.
    pub candidates: Vec<Candidate>,
    /// What was passed over, and why.
    pub rejected: Vec<Rejected>,
}

/// What the classifier said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Classified {
    /// The task that came out first.
    pub best_task: TaskName,
    /// The probability that it is right, 0 to 1.
    pub confidence: f32,
    pub runner_up: Option<Ranked>,
    /// Below this confidence the default task is chosen.
    pub threshold: f32,
    pub abstained: bool,
    /// The score of the best task: `bias` plus the weights of all n-grams.
    pub score: f32,
    pub bias: f32,
    /// The n-grams that weighed most.
    pub evidence: Vec<Evidence>,
}

impl Classified {
    /// The record of a verdict.
    #[must_use]
    pub fn new(verdict: Verdict, threshold: f32) -> Self {
        Self {
            best_task: verdict.best.task,
            confidence: verdict.best.confidence,
            runner_up: verdict.runner_up,
            threshold,
            abstained: verdict.abstained,
            score: verdict.reasons.score,
            bias: verdict.reasons.bias,
            evidence: verdict.reasons.evidence,
        }
    }
}

/// A replica that could answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub model: ModelName,
    pub node: NodeName,
    #[serde(flatten)]
    pub load: Load,
    /// How long the whole answer is expected to take there, in milliseconds. `None`: the replica
    /// has not answered yet.
    pub predicted_ms: Option<f32>,
}

/// A model, or a replica of one, that was passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    pub model: ModelName,
    /// `None`: the model as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    pub reason: Reason,
    /// What there is to say beyond the reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Why something was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The fleet has no such model.
    Unknown,
    /// It is not loaded there, or nowhere.
    NotLoaded,
    /// It is loading there.
    Loading,
    /// It could not be loaded there.
    Failed,
    /// It is about to leave that node.
    Draining,
    /// The node is away.
    NodeAway,
    /// Not in a privacy zone that the request may enter.
    Zone,
    /// It takes no more requests.
    Full,
    /// Others wait for it already.
    Queued,
    /// It failed time after time and is left alone for a while.
    Breaker,
    /// It was asked and did not answer.
    Error,
}

/// What became of a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub end: End,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// From the request's arrival to the first events of the answer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<f64>,
    /// From the request's arrival to its end, in milliseconds.
    pub total_ms: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u32>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Answered,
    Failed,
    /// The client went away.
    #[default]
    Abandoned,
}
