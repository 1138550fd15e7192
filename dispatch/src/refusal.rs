//! The errors of requests that no replica can take.

use std::time::Duration;

use flotilla_core::generate::RequestError;
use flotilla_core::routing::{RejectReason, RejectedCandidate, RoutingDecision};

use crate::plan::DispatchPlan;

/// The `retry-after` of a request that is refused for overload, or while a replica is coming.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Maximum number of rejected candidates in a message.
const MAX_NAMED: usize = 8;

/// Returns the error for a request to a controller that does not know the desired state yet.
pub(crate) fn not_ready() -> RequestError {
    RequestError::NotReady(
        "This controller has not read the fleet's desired state yet: try again, or ask another controller.".into(),
    )
}

/// Returns the error for a request that no replica began to answer within `waited`.
pub(crate) fn timed_out(plan: &DispatchPlan, waited: Duration) -> RequestError {
    RequestError::Timeout(format!(
        "No replica of {} could begin the answer within {} s.",
        target(plan),
        waited.as_secs()
    ))
}

/// Returns the error for a request whose replicas are all full.
pub(crate) fn full(plan: &DispatchPlan) -> RequestError {
    RequestError::Overloaded {
        message: format!(
            "Every replica of {} is full: try again later.",
            target(plan)
        ),
        retry_after: RETRY_AFTER,
    }
}

/// Returns the error for a request that no replica can answer before its own deadline.
pub(crate) fn deadline_unmet(plan: &DispatchPlan) -> RequestError {
    RequestError::DeadlineUnmet(format!(
        "No replica of {} is expected to answer before the request's deadline.",
        target(plan)
    ))
}

/// Returns the error for a request whose limits no replica keeps. Names the limits that were exceeded.
pub(crate) fn limits_unmet(plan: &DispatchPlan, decision: &RoutingDecision) -> RequestError {
    let violates_limit = |r: &&RejectedCandidate| {
        matches!(
            r.reason,
            RejectReason::Quality | RejectReason::Latency | RejectReason::Energy
        )
    };
    let violations = decision.rejected.iter().filter(violates_limit);
    let violations: Vec<_> = violations
        .take(MAX_NAMED)
        .map(|r| format!("{}: {}", r.model, r.detail))
        .collect();
    RequestError::LimitsUnmet(format!(
        "No replica of {} keeps the limits ({}).",
        target(plan),
        violations.join("; ")
    ))
}

/// Returns the error for a request without a ready replica, or without one in its privacy zones.
pub(crate) fn unavailable(plan: &DispatchPlan, decision: &RoutingDecision) -> RequestError {
    let rejected = &decision.rejected;
    let unknown = rejected
        .iter()
        .all(|r| r.reason == RejectReason::UnknownModel);
    let first = &plan.models[0];
    if unknown && plan.task.is_none() {
        return RequestError::ModelNotFound(first.to_string());
    }
    if rejected.iter().any(|r| r.reason == RejectReason::Zone) {
        let zones: Vec<_> = decision.zones.iter().map(|z| format!("'{z}'")).collect();
        return RequestError::unavailable(format!(
            "No replica of {} is ready in the privacy zone {}, which the request may not leave.",
            target(plan),
            zones.join(" or ")
        ));
    }
    RequestError::unavailable(format!(
        "No replica of {} is ready: 'flotilla describe model {first}' says why.",
        target(plan)
    ))
}

/// Returns the error of [`unavailable`] for a request that would find a replica a little later.
pub(crate) fn unavailable_yet(plan: &DispatchPlan, decision: &RoutingDecision) -> RequestError {
    match unavailable(plan, decision) {
        RequestError::Unavailable { message, .. } => RequestError::Unavailable {
            message,
            retry_after: Some(RETRY_AFTER),
        },
        other => other,
    }
}

/// Names the model or the task's models in a message.
fn target(plan: &DispatchPlan) -> String {
    match &plan.task {
        Some(task) => format!("the models of the task '{}'", task.task.name()),
        None => format!("the model '{}'", plan.models[0]),
    }
}
