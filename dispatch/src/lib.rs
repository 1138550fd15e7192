//! The request path: from a request that the gateway has checked to the answer of a replica.
//!
//! This crate owns the [`Dispatcher`], which finds out which task and models a request is for,
//! selects a replica or waits for one, sends the request, hedges, cascades from small models to
//! larger ones, relays the answer, and keeps a record of every decision. It works on a
//! [`DispatchView`], which is plain data, and sends requests through the trait
//! [`ReplicaTransport`]; the builder of the view decides which replicas it contains.
//!
//! It knows nothing of the store, of links, of HTTP, or of how replicas were placed. Start reading
//! at [`Dispatcher`], then `plan.rs` and `selection_pass.rs`.

mod affinity_cache;
mod answer_stream;
mod attempt;
mod candidate_estimate;
mod cascade;
mod dataset_sink;
mod decision_log;
mod decision_recorder;
mod dispatch_context;
mod dispatcher;
mod dry_run;
mod encoder;
mod endpoints;
mod failing_requests;
mod feedback;
mod hedge;
mod held_prompts;
mod kept_answer;
mod kept_prompt;
mod load_guard;
mod next_replica;
mod pending_queue;
mod plan;
mod plan_execution;
mod prompt_log;
mod refusal;
mod replica_stats;
mod request_context;
mod request_observer;
mod retry_state;
mod retry_throttles;
mod routing_view;
mod selection_pass;
mod selection_record;
mod stored_decision;
mod tier_answer;
mod time_limit;
mod traced_content;
mod trainer;
mod transport;
mod usage_guard;
mod view;

#[cfg(test)]
mod learning_tests;
#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod plan_scope_tests;
#[cfg(test)]
mod retry_tests;
#[cfg(test)]
mod test_fleet;

pub use dataset_sink::DatasetSink;
pub use decision_log::{DecisionLog, DecisionRecord};
pub use dispatch_context::DispatchConfig;
pub use dispatcher::{Dispatcher, DispatcherParts};
pub use dry_run::DryRunDecision;
pub use encoder::{EncoderState, EncoderStatus, LatestEncoder};
pub use endpoints::{EligibleReplicas, ModelEndpoints, ReplicaView};
pub use failing_requests::FailingRequests;
pub use feedback::FeedbackError;
pub use load_guard::LoadGuard;
pub use pending_queue::{PendingQueue, Waiter, WaitingCounts, WakeUpReceiver};
pub use replica_stats::{CandidateSnapshot, ReplicaLimits, ReplicaStats, stats_clock};
pub use request_observer::{EndedRequest, RequestListener, RequestObserver};
pub use routing_view::{MeasuredQuality, QualityRecord, RoutingView, TaskView};
pub use trainer::{LatestClassifier, TrainedClassifier, train_classifiers};
pub use transport::{MessageStream, ReplicaTransport, ResponseStream, TransportError};
pub use view::{DispatchView, ViewHandle, ViewPublisher};
