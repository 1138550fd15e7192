//! A cascade: a small model answers first, and a larger one where it is not confident.
//!
//! The answer of a smaller model is held back until it is judged. The answer of the last model goes to
//! the client as it comes.

use std::sync::Arc;
use std::time::Instant;

use flotilla_core::generate::{GenerateEvent, RequestError};
use flotilla_core::routing::{RoutingDecision, TierOutcome};
use flotilla_gateway::{BackendAnswer, BackendError, EventStream};
use futures::{StreamExt, stream};

use crate::dispatch_context::DispatchContext;
use crate::plan::DispatchPlan;
use crate::plan_execution::PlanExecution;
use crate::request_context::RequestContext;
use crate::tier_answer::{HeldAnswer, TierRequest};

/// The most useful of the smaller models' answers that did not satisfy the cascade.
enum Fallback {
    None,
    /// The answer of this tier was abandoned before its end.
    Abandoned(usize),
    /// The complete answer of this tier.
    Held(usize, HeldAnswer),
}

impl Fallback {
    /// The tier to fall back to.
    fn tier(&self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Abandoned(tier) | Self::Held(tier, _) => Some(*tier),
        }
    }
}

/// Answers with the models of a plan, the smallest first.
///
/// # Errors
/// Why there is no answer.
pub(crate) async fn answer(
    dispatch: &DispatchContext,
    plan: &DispatchPlan,
    request: TierRequest<'_>,
    mut decision: RoutingDecision,
    context: Arc<RequestContext>,
) -> Result<BackendAnswer<EventStream>, BackendError> {
    let last = plan.models.len() - 1;
    let mut fallback = Fallback::None;
    for tier in 0..last {
        let mut execution =
            PlanExecution::new(dispatch, plan.tier(tier), decision, context.clone());
        let larger_ready = dispatch.has_ready_replica(plan, tier + 1..=last, &context);
        execution.may_wait = !larger_ready;
        let (record, held) = request.answer_and_judge(&mut execution, larger_ready).await;
        execution.decision.cascade_tiers.push(record);
        match held {
            Ok(held) if held.kept => return Ok(send_held(execution, held)),
            Ok(held) if held.answer.is_some() => fallback = Fallback::Held(tier, held),
            Ok(_) if matches!(fallback, Fallback::Held(..)) => {}
            Ok(_) => fallback = Fallback::Abandoned(tier),
            Err(error) if execution.answer_limit().has_passed(Instant::now()) => {
                return Err(execution.refuse(error));
            }
            // A larger model may accept what the small one refuses, such as a longer prompt or a
            // request for log-probabilities.
            Err(_) => {}
        }
        decision = execution.take_decision();
    }
    let mut execution = PlanExecution::new(dispatch, plan.tier(last), decision, context.clone());
    let error = match execution.start_answer(&request.message).await {
        Ok((replica, answer)) => return Ok(execution.relay(replica, answer)),
        Err(error) => error,
    };
    // An answer without confidence is better than none, except where the request itself is invalid or
    // sets a minimum quality.
    let invalid = matches!(error, RequestError::Invalid { .. });
    let no_fallback = invalid
        || execution.answer_limit().has_passed(Instant::now())
        || plan.limits.min_quality.is_some();
    let Some(tier) = fallback.tier().filter(|_| !no_fallback) else {
        return Err(execution.refuse(error));
    };
    let decision = execution.take_decision();
    let mut execution = PlanExecution::new(dispatch, plan.tier(tier), decision, context);
    let records = execution.decision.cascade_tiers.iter_mut();
    for record in records.filter(|record| record.model == plan.models[tier]) {
        record.outcome = TierOutcome::AcceptedAsFallback;
    }
    if let Fallback::Held(_, held) = fallback {
        return Ok(send_held(execution, held));
    }
    match execution.start_answer(&request.message).await {
        Ok((replica, answer)) => Ok(execution.relay(replica, answer)),
        Err(_) => Err(execution.refuse(error)),
    }
}

/// Sends a held answer to the client.
fn send_held(mut execution: PlanExecution<'_>, held: HeldAnswer) -> BackendAnswer<EventStream> {
    execution.decision.model = Some(execution.plan.models[0].clone());
    execution.decision.node = Some(held.replica.node.clone());
    let (served_by, mut recorder) = execution.record_answer(held.replica);
    recorder.record_first_events();
    let (mut events, usage) = held.answer.unwrap_or_default();
    recorder.record_text(&events);
    recorder.record_usage(usage);
    if let Some(GenerateEvent::Usage(usage)) = events.last_mut() {
        usage.energy = Some(recorder.energy());
    }
    recorder.record_success();
    BackendAnswer {
        served_by,
        content: stream::iter([Ok(events)]).boxed(),
    }
}
