//! Which task a request belongs to, which model and replica answers it, and when its answer is good
//! enough.

mod affinity;
mod breaker;
mod cascade;
mod classify;
mod decision;
mod goals;
mod prefer;
mod select;
mod selection_reason;
pub mod tradeoff;

pub use affinity::{ConversationPrefix, marks};

pub use breaker::CircuitBreaker;
pub use cascade::{AnswerConfidence, CascadeSpec, ConfidenceMeasure, ConfidenceThreshold};
pub use classify::{
    Classification, Classifier, Ngram, NgramContribution, NgramKind, ScoreExplanation,
    TaskProbability, TrainingSet,
};
pub use decision::{
    AffinityRecord, CandidateRecord, ClassificationRecord, HedgeRecord, OutcomeStatus,
    RejectReason, RejectedCandidate, RequestOutcome, RoutingDecision, TierOutcome, TierRecord,
};
pub use goals::{
    AnswerLimits, ExpectedAnswer, LimitViolation, ObjectiveScore, ObjectiveWeights, is_longer,
    nearest, score,
};
pub use prefer::{ReplicaCandidate, prefer, selection_reasons};
pub use select::{CandidateStatus, ReplicaLoad, select, select_of_all};
pub use selection_reason::SelectionReason;
