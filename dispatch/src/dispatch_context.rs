//! The state that all requests of one dispatcher share.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::generate::{RequestError, Route};
use flotilla_core::routing::RoutingDecision;
use flotilla_gateway::BackendError;

use crate::affinity_cache::AffinityCache;
use crate::plan::DispatchPlan;
use crate::request_context::RequestContext;
use crate::retry_state::RetryState;
use crate::retry_throttles::RetryThrottles;
use crate::selection_pass::{SelectionOutcome, SelectionPass, SelectionScope};
use crate::{DecisionLog, PendingQueue, RequestObserver, ViewHandle};

/// How requests are dispatched.
#[derive(Debug, Clone, Copy)]
pub struct DispatchConfig {
    /// The longest time from the dispatch of a request to the first token of its answer.
    pub first_token_timeout: Duration,
    /// The longest time from the arrival of a request to the end of its answer.
    pub answer_timeout: Duration,
    /// Whether decision records hold prompts. Those of requests held to privacy zones never do.
    pub record_prompts: bool,
}

/// The state that all requests of one dispatcher share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DispatchContext {
    pub(crate) view: ViewHandle,
    pub(crate) pending: PendingQueue,
    pub(crate) affinity: AffinityCache,
    pub(crate) retries: RetryThrottles,
    pub(crate) decisions: DecisionLog,
    pub(crate) observer: RequestObserver,
    pub(crate) config: DispatchConfig,
}

impl DispatchContext {
    /// Starts the context of a request that has arrived.
    pub(crate) fn start_request(
        &self,
        operation: &'static str,
        route: &Route,
    ) -> Arc<RequestContext> {
        let grid = self.view.peek().routing.grid.clone();
        self.observer
            .start_request(operation, route.fairness_key, grid)
    }

    /// Records that the request ends without an answer, and returns the error for the client.
    pub(crate) fn refuse(
        &self,
        decision: RoutingDecision,
        context: Arc<RequestContext>,
        error: RequestError,
    ) -> BackendError {
        let mut recorder = self.decisions.record(decision, context);
        recorder.record_failure(&error);
        BackendError {
            error,
            decision_id: Some(recorder.id().to_owned()),
        }
    }

    /// Returns whether one of the plan's models at these indices could answer now, within the request's
    /// limits.
    pub(crate) fn has_ready_replica(
        &self,
        plan: &DispatchPlan,
        mut models: RangeInclusive<usize>,
        context: &RequestContext,
    ) -> bool {
        let view = self.view.peek();
        let retry = RetryState::default();
        let remaining = plan
            .deadline
            .map(|deadline| deadline.saturating_sub(context.arrived.elapsed()));
        models.any(|tier| {
            let tier = plan.tier(tier);
            let pass = SelectionPass {
                view: &view,
                plan: &tier,
                affinity: &self.affinity,
                pending: &self.pending,
                retry: &retry,
                head_of: None,
                remaining,
                spent: context.spent(),
                now: Instant::now(),
                scope: SelectionScope::Request,
            };
            matches!(pass.run().0, SelectionOutcome::Selected(_))
        })
    }
}
