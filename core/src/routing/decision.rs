//! The record of a routing decision: what was chosen, from what, and why. Unless prompts are to be
//! kept it holds nothing of them but n-grams that are in the tasks' own examples.

use serde::{Deserialize, Serialize};

use super::{
    AnswerLimits, Classification, ConfidenceMeasure, NgramContribution, ObjectiveScore,
    ReplicaLoad, SelectionReason, TaskProbability, selection_reason,
};
use crate::admission::Priority;
use crate::energy::{Currency, EnergySources};
use crate::{Joules, ModelName, NodeName, TaskName, ZoneName};

/// A routing decision, as far as it is known before anything was sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RoutingDecision {
    /// The `model` field of the request.
    pub requested: String,
    /// The task that was chosen. `None` where the request named a model.
    pub task: Option<TaskName>,
    /// What the classifier said; `None` where it was not asked.
    #[serde(flatten)]
    pub classified: Option<ClassificationRecord>,
    /// Only nodes in these privacy zones may answer. Empty: any node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<ZoneName>,
    #[serde(default)]
    pub priority: Priority,
    /// Within how many milliseconds of its arrival the answer must be complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u32>,
    /// What the answer must keep.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: AnswerLimits,
    /// The newest turn, where prompts are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The replica that may have the beginning of the conversation, or its session, in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<AffinityRecord>,
    pub model: Option<ModelName>,
    pub node: Option<NodeName>,
    /// Replicas that could answer and were compared.
    pub candidates: Vec<CandidateRecord>,
    /// What was passed over, and why.
    pub rejected: Vec<RejectedCandidate>,
    /// Smaller models that were asked first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<TierRecord>,
    /// Replicas that were asked beside one that took long.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hedges: Vec<HedgeRecord>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A replica that was preferred for what it has in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffinityRecord {
    pub node: NodeName,
    /// Bytes of the conversation that it has read before; 0: only its session.
    pub known_bytes: u32,
    /// Whether it was chosen.
    pub taken: bool,
}

/// A model of a cascade that was asked before the one that answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierRecord {
    pub model: ModelName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// How it ended.
    pub verdict: TierOutcome,
    pub measure: ConfidenceMeasure,
    /// How sure it was, 0 to 1, as far as its answer was read.
    pub confidence: Option<f32>,
    /// How sure it had to be.
    pub threshold: f32,
    /// What it took.
    pub ms: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<Joules>,
    /// Where the joules come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_source: Option<EnergySources>,
    /// Why there is no answer of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What became of a smaller model's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TierOutcome {
    /// It was sure: its answer is the answer.
    Kept,
    /// It was not sure enough.
    Unsure,
    /// So early that the rest of the answer was not waited for.
    StoppedEarly,
    /// Its answer does not match the schema.
    Malformed,
    /// It could not be asked, or failed.
    Failed,
    /// It was not sure enough, but no larger one could be asked.
    KeptForWantOfBetter,
}

impl TierOutcome {
    /// It in a word, as in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Unsure => "unsure",
            Self::StoppedEarly => "stopped_early",
            Self::Malformed => "malformed",
            Self::Failed => "failed",
            Self::KeptForWantOfBetter => "kept_for_want_of_better",
        }
    }
}

/// A replica that was asked beside one that took long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HedgeRecord {
    /// The one that took long.
    pub slow: NodeName,
    /// The one that was asked beside it.
    pub node: NodeName,
    /// How long after the first one, in milliseconds.
    pub after_ms: f64,
    /// Whether it answered first.
    pub won: bool,
}

/// What the classifier said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassificationRecord {
    /// The task that came out first.
    pub best_task: TaskName,
    /// The probability that it is right, 0 to 1.
    pub confidence: f32,
    pub runner_up: Option<TaskProbability>,
    /// Below this confidence the default task is chosen.
    pub threshold: f32,
    pub abstained: bool,
    /// The score of the best task: `bias` plus the weights of all n-grams.
    pub score: f32,
    pub bias: f32,
    /// The n-grams that weighed most.
    pub evidence: Vec<NgramContribution>,
}

impl ClassificationRecord {
    /// The record of a verdict.
    #[must_use]
    pub fn new(verdict: Classification, threshold: f32) -> Self {
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
pub struct CandidateRecord {
    pub model: ModelName,
    pub node: NodeName,
    #[serde(flatten)]
    pub load: ReplicaLoad,
    /// When the whole answer is expected from there, in milliseconds. `None`: the replica has not
    /// answered yet.
    pub predicted_ms: Option<f32>,
    /// When its first token is expected.
    #[serde(default)]
    pub predicted_first_token_ms: Option<f32>,
    /// What the answer is expected to take there.
    #[serde(default)]
    pub predicted_joules: Option<Joules>,
    /// The model's measured quality for the task, 0 to 1. `None`: it was not measured.
    #[serde(default)]
    pub quality: Option<f32>,
    /// Why it is used less than it could be: it is on battery, or slowed down by heat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strain: Option<String>,
    /// How it stood beside the others of its model; with `says`, the same in words.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "selection_reason::with_text"
    )]
    pub selection: Option<SelectionReason>,
    /// How near it comes to what the task wants, where models are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<ObjectiveScore>,
}

/// A model, or a replica of one, that was passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedCandidate {
    pub model: ModelName,
    /// `None`: the model as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    pub reason: RejectReason,
    /// What there is to say beyond the reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Why something was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
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
    /// Its node has not enough memory for it.
    Memory,
    /// It does the task less well than asked, or was not measured.
    Quality,
    /// It is expected to take longer than asked.
    Latency,
    /// It is expected to take more energy than asked.
    Energy,
    /// It is expected to answer after the request's deadline.
    Deadline,
}

/// What became of a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestOutcome {
    pub end: OutcomeStatus,
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
    /// How long it waited on the node, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<f64>,
    /// The energy that it took on all that were asked: smaller models before, replicas that failed or
    /// took too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<Joules>,
    /// Where the joules come from: `rapl+nvml`, `estimate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_source: Option<EnergySources>,
    /// Grams of CO2 equivalent, where the grid's intensity is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub co2_grams: Option<f64>,
    /// What the energy cost, where its price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeStatus {
    Answered,
    Failed,
    /// The client went away.
    #[default]
    Abandoned,
}
