//! Dry runs: the decision about a request that is not sent.

use flotilla_core::generate::{GenerateInput, RequestError, Route};
use flotilla_core::routing::{RoutingDecision, SpentResources};
use flotilla_core::{ModelName, ZoneName};
use std::collections::BTreeSet;
use std::time::Instant;

use crate::dispatcher::Dispatcher;
use crate::plan::{DispatchPlan, RequestProfile};
use crate::retry_state::RetryState;
use crate::selection_pass::{SelectionOutcome, SelectionPass, SelectionScope};

/// The decision about a request that arrives now and is not sent.
#[derive(Debug, Default)]
pub struct DryRunDecision {
    /// The decision, with every replica that could answer and why the others could not.
    pub decision: RoutingDecision,
    /// The models of the plan, the preferred one first. Empty when planning fails.
    pub models: Vec<ModelName>,
    /// The privacy zones that the request may enter. `None`: any node.
    pub zones: Option<BTreeSet<ZoneName>>,
    /// Why planning fails. `None`: it succeeds.
    pub error: Option<RequestError>,
}

impl Dispatcher {
    /// Plans a request and makes its selection pass over every replica, without sending or recording
    /// anything.
    pub async fn dry_run(
        &self,
        route: &Route,
        input: &GenerateInput,
        max_tokens: Option<u32>,
    ) -> DryRunDecision {
        let mut decision = RoutingDecision::default();
        let request = RequestProfile {
            input,
            max_tokens,
            choices: 1,
        };
        // Only the encoder computes for a dry run, whose energy counts as its node's.
        let context = self.context.start_request("dry_run", route);
        context.hand_to_recorder();
        match self.plan(route, request, &context, &mut decision).await {
            Ok(plan) => {
                let (models, zones) = (plan.models.clone(), plan.zones.clone());
                // It looks at every replica, which takes long in a large fleet.
                let dispatcher = self.clone();
                let selected = tokio::task::spawn_blocking(move || {
                    dispatcher.select_for_dry_run(&plan, &mut decision);
                    decision
                });
                let (decision, error) = match selected.await {
                    Ok(decision) => (decision, None),
                    Err(error) => (
                        RoutingDecision::default(),
                        Some(RequestError::unavailable(error.to_string())),
                    ),
                };
                DryRunDecision {
                    decision,
                    models,
                    zones,
                    error,
                }
            }
            Err(error) => DryRunDecision {
                decision,
                error: Some(error),
                ..DryRunDecision::default()
            },
        }
    }

    /// Makes the selection passes of a plan: one, or one for each tier of a cascade, of which the first
    /// that selects a replica answers.
    fn select_for_dry_run(&self, plan: &DispatchPlan, decision: &mut RoutingDecision) {
        let tiers: Vec<DispatchPlan> = match plan.cascade() {
            Some(_) => (0..plan.models.len()).map(|tier| plan.tier(tier)).collect(),
            None => vec![plan.clone()],
        };
        let view = self.context.view.load();
        let retry = RetryState::default();
        for plan in &tiers {
            let pass = SelectionPass {
                view: &view,
                plan,
                affinity: &self.context.affinity,
                pending: &self.context.pending,
                retry: &retry,
                head_of: None,
                remaining: plan.deadline,
                spent: SpentResources::default(),
                now: Instant::now(),
                scope: SelectionScope::Everything,
            };
            let (outcome, mut record) = pass.run();
            decision.candidates.append(&mut record.candidates);
            decision.rejected.append(&mut record.rejected);
            decision.affinity = decision.affinity.take().or(record.affinity);
            if let SelectionOutcome::Selected(selected) = outcome
                && decision.node.is_none()
            {
                decision.model = Some(plan.models[selected.model].clone());
                decision.node = Some(selected.replica.node);
            }
        }
    }
}
