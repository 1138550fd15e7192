//! The record of a routing decision: what was chosen, from which candidates, and why. It contains
//! nothing of the prompt but n-grams and words that also occur in the tasks' examples, unless prompts are
//! configured to be recorded.

use serde::{Deserialize, Serialize};

use super::{
    AnswerLimits, Classification, ConfidenceMeasure, EncoderRecord, Evidence, NearestExample,
    ObjectiveScore, ReplicaLoad, SelectionReason, TaskProbability, selection_reason,
};
use crate::admission::Priority;
use crate::energy::{Currency, EnergySources};
use crate::{Joules, ModelName, NodeName, TaskName, ZoneName};

/// A routing decision. It is filled in as the request proceeds; [`RequestOutcome`] says how the
/// request ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RoutingDecision {
    /// The `model` field of the request.
    pub requested_model: String,
    /// The task that was chosen. `None` if the request named a model.
    pub task: Option<TaskName>,
    /// The result of the classifier. `None` if the request named a task or a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<ClassificationRecord>,
    /// The privacy zones whose nodes may answer. Empty if any node may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<ZoneName>,
    /// The priority of the request in queues.
    #[serde(default)]
    pub priority: Priority,
    /// The request's deadline, in milliseconds after its arrival.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u32>,
    /// The limits of the request and its task, the stricter ones of both.
    #[serde(default, skip_serializing_if = "is_default")]
    pub limits: AnswerLimits,
    /// The newest user turn. `None` unless prompts are configured to be recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The replica that has the session or a prefix of the conversation in memory, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<AffinityRecord>,
    /// The chosen model. `None` if no replica could answer.
    pub model: Option<ModelName>,
    /// The node of the chosen replica. `None` if no replica could answer.
    pub node: Option<NodeName>,
    /// How often the request was sent to a replica that failed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub failed_attempts: u32,
    /// The replicas that could answer and were compared.
    pub candidates: Vec<CandidateRecord>,
    /// The models and replicas that could not answer, with the reasons.
    pub rejected: Vec<RejectedCandidate>,
    /// The smaller models of a cascade that were tried, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cascade_tiers: Vec<TierRecord>,
    /// The requests that were sent to a second replica because the first one was slow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hedges: Vec<HedgeRecord>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A replica that was preferred because it has the session or a part of the conversation in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AffinityRecord {
    /// The node of the replica.
    pub node: NodeName,
    /// Bytes of the conversation that the replica has in memory. 0 if only the session is known.
    pub cached_bytes: u32,
    /// Whether this replica was chosen.
    pub chosen: bool,
}

/// An attempt with one of a cascade's smaller models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TierRecord {
    /// The model of this tier.
    pub model: ModelName,
    /// The node that answered. `None` if no replica could take the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Whether the answer was accepted, or why not.
    pub outcome: TierOutcome,
    /// The measure of confidence.
    pub measure: ConfidenceMeasure,
    /// The confidence in the answer, 0 to 1, as far as it was read. `None` without token
    /// probabilities.
    pub confidence: Option<f32>,
    /// The confidence from which on the answer is accepted.
    pub threshold: f32,
    /// How long the attempt took, in milliseconds.
    pub duration_ms: f64,
    /// Tokens of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u32>,
    /// The energy that the attempt took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<Joules>,
    /// The sources of the joules, such as `rapl+nvml` or `estimate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_source: Option<EnergySources>,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The outcome of an attempt with a cascade's smaller model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TierOutcome {
    /// The confidence reached the threshold: the answer was returned.
    Accepted,
    /// The confidence was below the threshold.
    LowConfidence,
    /// The confidence could no longer reach the threshold, so the attempt was cancelled early.
    StoppedEarly,
    /// The answer does not match the cascade's JSON schema.
    SchemaMismatch,
    /// No replica could take the request, or the attempt failed.
    Failed,
    /// The confidence was below the threshold, but no larger model could answer.
    AcceptedAsFallback,
}

impl TierOutcome {
    /// The name in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::LowConfidence => "low_confidence",
            Self::StoppedEarly => "stopped_early",
            Self::SchemaMismatch => "schema_mismatch",
            Self::Failed => "failed",
            Self::AcceptedAsFallback => "accepted_as_fallback",
        }
    }
}

/// A request that was also sent to a second replica because the first one was slow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HedgeRecord {
    /// The node of the slow replica.
    pub slow_node: NodeName,
    /// The node of the second replica.
    pub node: NodeName,
    /// Milliseconds between the first attempt and the second.
    pub delay_ms: f64,
    /// Whether the second replica answered first.
    pub won: bool,
}

/// The result of the classifier for a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassificationRecord {
    /// The most probable task.
    pub best_task: TaskName,
    /// The probability that it is the right one, 0 to 1.
    pub confidence: f32,
    /// The second most probable task. `None` if there is only one task.
    pub runner_up: Option<TaskProbability>,
    /// The confidence below which the default task is chosen instead.
    pub threshold: f32,
    /// Whether the confidence was too low, so that the default task was chosen.
    pub abstained: bool,
    /// The score of the best task: `bias` plus the weights of all evidence.
    pub score: f32,
    /// The score of the best task for an empty text.
    pub bias: f32,
    /// The n-grams and words with the largest weights.
    pub evidence: Vec<Evidence>,
    /// The example of the best task that is nearest to the request in meaning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<NearestExample>,
    /// How familiar the request is: the similarities to the nearest examples of the two best tasks, less 1.5 times that to
    /// text in general.
    #[serde(default)]
    pub familiarity: f32,
    /// How the router's encoder was used. `None` if the classifier was sure, or the router names no encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderRecord>,
}

/// The task that a classification comes to, by the encoder where it was used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifiedTask<'a> {
    /// The most probable task.
    pub task: &'a TaskName,
    /// The probability that it is the right one, 0 to 1.
    pub confidence: f32,
    /// The confidence below which the default task is chosen instead.
    pub threshold: f32,
    /// Whether the confidence was too low, so that the default task is chosen.
    pub abstained: bool,
}

impl ClassificationRecord {
    /// The record of a classification by a classifier with this `threshold`.
    #[must_use]
    pub fn new(classification: Classification, threshold: f32) -> Self {
        Self {
            best_task: classification.best.task,
            confidence: classification.best.confidence,
            runner_up: classification.runner_up,
            threshold,
            abstained: classification.abstained,
            score: classification.explanation.score,
            bias: classification.explanation.bias,
            evidence: classification.explanation.evidence,
            nearest: classification.explanation.nearest,
            familiarity: classification.explanation.familiarity,
            encoder: None,
        }
    }

    /// The task that the request has, by the encoder where it was used.
    #[must_use]
    pub fn classified_task(&self) -> ClassifiedTask<'_> {
        let by_encoder = self.encoder.as_ref();
        match by_encoder.and_then(|encoder| encoder.classification.as_ref()) {
            Some(found) => ClassifiedTask {
                task: &found.best_task,
                confidence: found.confidence,
                threshold: found.threshold,
                abstained: found.abstained,
            },
            None => ClassifiedTask {
                task: &self.best_task,
                confidence: self.confidence,
                threshold: self.threshold,
                abstained: self.abstained,
            },
        }
    }
}

/// A replica that could answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateRecord {
    /// The replica's model.
    pub model: ModelName,
    /// The replica's node.
    pub node: NodeName,
    /// How busy the replica was.
    #[serde(flatten)]
    pub load: ReplicaLoad,
    /// Predicted milliseconds to the end of the answer. `None` if the replica has not answered yet.
    pub predicted_ms: Option<f32>,
    /// Predicted milliseconds to the first token. `None` if the replica has not answered yet.
    #[serde(default)]
    pub predicted_first_token_ms: Option<f32>,
    /// Predicted energy of the answer. `None` if the replica has not answered yet.
    #[serde(default)]
    pub predicted_joules: Option<Joules>,
    /// The model's measured quality for the task, 0 to 1. `None` if it was not measured.
    #[serde(default)]
    pub quality: Option<f32>,
    /// The power or thermal pressure of the node, as a text. `None` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<String>,
    /// Why the replica was chosen among the replicas of its model, or why not; in JSON with a
    /// `text` for people.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "selection_reason::with_text"
    )]
    pub selection: Option<SelectionReason>,
    /// The score by the task's weights, where several models were compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<ObjectiveScore>,
}

/// A model, or one of its replicas, that could not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedCandidate {
    /// The model.
    pub model: ModelName,
    /// The replica's node. `None` if the model as a whole was rejected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Why it was rejected.
    pub reason: RejectReason,
    /// Further details for people. Empty if there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Why a model or a replica was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The fleet has no such model.
    UnknownModel,
    /// The model is not loaded on the node, or on no node at all.
    NotLoaded,
    /// The model is being loaded on the node.
    Loading,
    /// The model could not be loaded on the node.
    LoadFailed,
    /// The replica is about to be removed from the node.
    Draining,
    /// The node is not connected.
    NodeDisconnected,
    /// The node is in no privacy zone that the request may enter.
    Zone,
    /// The replica accepts no more requests.
    Full,
    /// Other requests are waiting for the model already.
    Queued,
    /// The replica's circuit breaker is open after repeated failures.
    CircuitOpen,
    /// The request was sent to the replica, and the attempt failed.
    AttemptFailed,
    /// The node has not enough memory for the model.
    Memory,
    /// The model's quality is below the limit, or was not measured.
    Quality,
    /// The predicted time is above the limit.
    Latency,
    /// The predicted energy is above the limit.
    Energy,
    /// The predicted time is past the request's deadline.
    Deadline,
}

/// How a request ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RequestOutcome {
    /// Whether the request was answered.
    pub status: OutcomeStatus,
    /// Why the request failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Milliseconds from the request's arrival to the first event of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<f64>,
    /// Milliseconds from the request's arrival to its end.
    pub total_ms: f64,
    /// Tokens of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    /// Tokens of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u32>,
    /// Milliseconds that the request waited in the node's queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued_ms: Option<f64>,
    /// The energy of all attempts together: smaller models of a cascade, hedges and retries
    /// included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<Joules>,
    /// The sources of the joules, such as `rapl+nvml` or `estimate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_source: Option<EnergySources>,
    /// Grams of CO2 equivalent. `None` if the grid's carbon intensity is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub co2_grams: Option<f64>,
    /// The cost of the energy, in `currency`. `None` if the price is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// The currency of `cost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
}

/// Whether a request was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeStatus {
    /// The answer was complete.
    Answered,
    /// The request ended with an error.
    Failed,
    /// The client disconnected before the end of the answer.
    #[default]
    Cancelled,
}
