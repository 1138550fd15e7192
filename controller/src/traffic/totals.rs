//! Usage since the controller started, added up by model, task and node.

use std::collections::BTreeMap;

use flotilla_core::routing::OutcomeStatus;

use super::report::{UsageTotal, UsageTotals};
use flotilla_dispatch::EndedRequest;
use flotilla_telemetry::clock::unix_millis;

/// Names that totals are kept for, for each of models, tasks and nodes. Requests of further names
/// are not added up, so that a client that invents names cannot fill the memory.
const MAX_NAMES: usize = 1_000;

/// The totals, updated by every request that ends.
pub(super) struct RunningTotals {
    since: u64,
    models: BTreeMap<String, UsageTotal>,
    tasks: BTreeMap<String, UsageTotal>,
    nodes: BTreeMap<String, UsageTotal>,
}

impl RunningTotals {
    /// Empty totals that count from now on.
    pub(super) fn new() -> Self {
        Self {
            since: unix_millis(),
            models: BTreeMap::new(),
            tasks: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// Adds a request to the totals of its model, its task and its node.
    pub(super) fn add(&mut self, request: &EndedRequest<'_>) {
        let decision = request.decision;
        let model = decision.model.as_ref().map(|name| name.as_str());
        let task = decision.task.as_ref().map(|name| name.as_str());
        let node = decision.node.as_ref().map(|name| name.as_str());
        let totals = [
            total_of(&mut self.models, model),
            total_of(&mut self.tasks, task),
            total_of(&mut self.nodes, node),
        ];
        let outcome = request.outcome;
        for total in totals.into_iter().flatten() {
            total.requests += 1;
            total.errors += u64::from(outcome.status == OutcomeStatus::Failed);
            total.prompt_tokens += u64::from(outcome.prompt_tokens.unwrap_or(0));
            total.output_tokens += u64::from(outcome.completion_tokens.unwrap_or(0));
            total.energy.add(&request.energy);
        }
    }

    /// The totals so far, for the API.
    pub(super) fn report(&self) -> UsageTotals {
        let list = |names: &BTreeMap<String, UsageTotal>| names.values().cloned().collect();
        UsageTotals {
            since: self.since,
            models: list(&self.models),
            tasks: list(&self.tasks),
            nodes: list(&self.nodes),
        }
    }
}

/// The total of `name`, created on first use. `None` without a name, or when there is no room for
/// another one.
fn total_of<'a>(
    names: &'a mut BTreeMap<String, UsageTotal>,
    name: Option<&str>,
) -> Option<&'a mut UsageTotal> {
    let name = name?;
    if !names.contains_key(name) {
        if names.len() >= MAX_NAMES {
            return None;
        }
        let total = UsageTotal {
            name: name.to_owned(),
            ..UsageTotal::default()
        };
        names.insert(name.to_owned(), total);
    }
    names.get_mut(name)
}
