//! Sends texts to a replica of the encoder: through the selection and the attempts of all requests, once, without waiting
//! for a replica.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::admission::QueueKey;
use flotilla_core::estimate::RequestCost;
use flotilla_core::generate::{AnswerLimit, EmbedInput, EmbedRequest, RequestError};
use flotilla_core::routing::{AnswerLimits, RejectReason, SpentResources};
use flotilla_core::{ModelName, ModelRevision, NodeName, ZoneName};

use crate::attempt::Attempt;
use crate::dispatch_context::DispatchContext;
use crate::plan::DispatchPlan;
use crate::request_context::RequestContext;
use crate::retry_state::RetryState;
use crate::selection_pass::{SelectionOutcome, SelectionPass, SelectionScope, SkipReason};
use crate::time_limit::AttemptLimits;
use crate::usage_guard::UsageGuard;
use crate::{LoadGuard, ReplicaView};

/// Texts for the encoder.
pub(super) struct EncoderCall<'a> {
    pub(super) model: &'a ModelName,
    /// The revision that must make the vectors.
    pub(super) revision: ModelRevision,
    pub(super) texts: Vec<String>,
    /// The privacy zones that the texts may enter. `None`: any node.
    pub(super) zones: Option<BTreeSet<ZoneName>>,
    pub(super) queue_key: QueueKey,
    /// The longest time to the vectors.
    pub(super) timeout: Duration,
}

/// Why there are no vectors.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum CallError {
    /// No replica has room.
    Busy,
    /// No replica is ready.
    Unavailable {
        /// Whether one may be ready soon.
        is_expected: bool,
    },
    /// No replica is in the zones.
    Zone,
    /// The replica serves another revision.
    OtherRevision,
    /// The time has passed.
    Timeout,
    /// The replica answered with an error, or with another number of vectors.
    Failed(RequestError),
}

/// The node that was selected, if there was one, and the vectors in the order of the texts.
pub(super) struct CallResult {
    pub(super) node: Option<NodeName>,
    pub(super) vectors: Result<Vec<Vec<f32>>, CallError>,
}

impl EncoderCall<'_> {
    /// Makes the call on behalf of a request, whose energy that of the call is a part of.
    pub(super) async fn send(
        self,
        context: &DispatchContext,
        request: &Arc<RequestContext>,
    ) -> CallResult {
        let began = Instant::now();
        let (replica, load) = match self.select(context) {
            Ok(selected) => selected,
            Err(error) => {
                return CallResult {
                    node: None,
                    vectors: Err(error),
                };
            }
        };
        let attempt = Attempt {
            replica: &replica,
            usage: UsageGuard::new(&replica, load, request.clone()),
        };
        // As the call's own deadline: a replica that misses it is slow and not at fault.
        let answer = AnswerLimit::new(began, self.timeout, Some(self.timeout));
        let limits = AttemptLimits {
            begin_at: answer.at,
            answer,
        };
        let count = self.texts.len();
        let addressed = EmbedRequest {
            model: self.model.clone(),
            inputs: self.texts.into_iter().map(EmbedInput::Text).collect(),
            queue_key: self.queue_key,
            deadline: Some(self.timeout),
        };
        let vectors = match attempt.embed(&addressed, limits).await {
            Ok(answer) if answer.vectors.len() == count => Ok(answer.vectors),
            Ok(answer) => Err(CallError::Failed(RequestError::Engine(format!(
                "the encoder made {} vectors of {count} texts",
                answer.vectors.len()
            )))),
            Err(failed) => Err(match failed.error {
                RequestError::DeadlineUnmet(_) | RequestError::Timeout(_) => CallError::Timeout,
                RequestError::Overloaded { .. } => CallError::Busy,
                RequestError::Unavailable { .. } => CallError::Unavailable { is_expected: false },
                error => {
                    if error.is_replica_fault() {
                        let held = self.zones.is_some();
                        replica
                            .stats
                            .note_failed_request(&error.recorded_text(held));
                    }
                    CallError::Failed(error)
                }
            }),
        };
        CallResult {
            node: Some(replica.node),
            vectors,
        }
    }

    /// Selects a replica and counts the call as its load.
    fn select(&self, context: &DispatchContext) -> Result<(ReplicaView, LoadGuard), CallError> {
        if self.zones.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(CallError::Zone);
        }
        let bytes: usize = self.texts.iter().map(String::len).sum();
        let plan = DispatchPlan {
            models: vec![self.model.clone()],
            task: None,
            zones: self.zones.clone(),
            weights: None,
            limits: AnswerLimits::default(),
            queue_key: self.queue_key,
            deadline: Some(self.timeout),
            cost: RequestCost {
                prompt_bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
                max_tokens: None,
                choices: 1,
            },
            prefixes: Vec::new(),
            session: None,
        };
        let view = context.view.peek();
        let pass = SelectionPass {
            view: &view,
            plan: &plan,
            affinity: &context.affinity,
            pending: &context.pending,
            retry: &RetryState::default(),
            head_of: None,
            // What a replica has shown of its speed, with batches of examples above all, rejects it for minutes. A
            // call that is too slow ends by itself.
            remaining: None,
            spent: SpentResources::default(),
            now: Instant::now(),
            scope: SelectionScope::Request,
        };
        let (outcome, record) = pass.run();
        let selected = match outcome {
            SelectionOutcome::Selected(selected) => selected,
            SelectionOutcome::Wait(_) => return Err(CallError::Unavailable { is_expected: true }),
            SelectionOutcome::Skipped(SkipReason::Full) => {
                return Err(CallError::Busy);
            }
            SelectionOutcome::Skipped(_) => {
                let mut rejected = record.rejected.iter();
                return Err(if rejected.any(|one| one.reason == RejectReason::Zone) {
                    CallError::Zone
                } else {
                    CallError::Unavailable { is_expected: false }
                });
            }
        };
        if selected.replica.revision != self.revision {
            return Err(CallError::OtherRevision);
        }
        let cost = plan.cost;
        let load = selected.replica.stats.begin_request(self.queue_key, cost);
        Ok((selected.replica, load))
    }
}
