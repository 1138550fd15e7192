//! Decides which task a request belongs to, which model and replica answers it, and whether an
//! answer is good enough.
//!
//! [`Classifier`] finds the task; [`score_candidates`] compares models by the task's objective;
//! [`sample_and_choose`] samples some replicas of a model, of which [`choose_replica`] selects one;
//! [`CascadeSpec`] says when a small model's answer is accepted; [`retry_backoff`] and [`RetryThrottle`]
//! limit retries. [`RoutingDecision`] records these steps.

mod cascade;
mod choose;
mod circuit_breaker;
mod classify;
mod conversation_prefix;
mod decision;
mod encoder_record;
mod explain_choice;
mod objective;
mod request_limits;
mod retry;
mod sample;
mod selection_reason;
pub mod threshold_tradeoff;

pub use cascade::{AnswerConfidence, CascadeSpec, ConfidenceMeasure, ConfidenceThreshold};
pub use choose::{ReplicaCandidate, ReplicaChoice, choose_replica};
pub use circuit_breaker::CircuitBreaker;
pub use classify::{
    Classification, Classifier, Confusion, Doubt, DoubtfulExample, EncoderClassification,
    EncoderClassifier, EncoderError, EncoderExample, EncoderReport, Evidence, EvidenceKind,
    ExampleText, MAX_ENCODED_CHARS, NearestExample, ScoreExplanation, SeparatedTask, TaskExamples,
    TaskProbability, TaskSeparation, TrainingSet, encoded_text,
};
pub use conversation_prefix::{ConversationPrefix, conversation_prefixes};
pub use decision::{
    AffinityRecord, CandidateRecord, ClassificationRecord, ClassifiedTask, HedgeRecord,
    OutcomeStatus, RejectReason, RejectedCandidate, RequestOutcome, RoutingDecision, TierOutcome,
    TierRecord,
};
pub use encoder_record::{EncoderOutcome, EncoderRecord, EncoderTask};
pub use objective::{
    AnswerLimits, ExpectedAnswer, ObjectiveScore, ObjectiveWeights, best_score, score_candidates,
};
pub use request_limits::{ExpectedReplica, LimitViolation, RequestLimits, SpentResources};
pub use retry::{MAX_FAILED_ATTEMPTS, MAX_RETRY_AFTER, RetryThrottle, retry_backoff};
pub use sample::{CandidateStatus, ReplicaLoad, choose_from_all, sample_and_choose};
pub use selection_reason::SelectionReason;
