//! The view as the solver's problem.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use flotilla_core::placement::{
    CurrentReplica, MeasuredPerformance, ModelDemand, NodeCapacity, PlacementProblem,
    Schedulability,
};
use flotilla_core::rollout::{self, ModelRevisions, RolloutStep};
use flotilla_core::{Bytes, ModelName, ModelRevision, NodeName};
use flotilla_proto::v1::ModelPhase;

use super::scale::ModelScalers;
use crate::fleet::{FleetView, ModelView, NodePhase, NodeView};

/// What a problem borrows beside the view.
pub(super) struct ProblemInputs {
    models: BTreeMap<ModelName, ModelInput>,
}

/// What is to be known of one model.
pub(super) struct ModelInput {
    pub(super) revisions: ModelRevisions,
    /// The next step of its rollout.
    pub(super) step: RolloutAction,
    target: u32,
    required: u32,
    refused_by: BTreeMap<NodeName, String>,
    measured: HashMap<NodeName, MeasuredPerformance>,
}

/// The next step of a rollout, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RolloutAction {
    Wait,
    Change(Vec<NodeName>),
    /// The only replica is not changed before another one answers on another node.
    Surge(NodeName),
    Settled,
    RollBack(NodeName),
}

impl ProblemInputs {
    pub(super) fn new(view: &FleetView, scalers: &ModelScalers) -> Self {
        let input = |(name, model): (&ModelName, &std::sync::Arc<ModelView>)| {
            (name.clone(), ModelInput::new(view, model, scalers))
        };
        Self {
            models: view.models.iter().map(input).collect(),
        }
    }

    pub(super) fn get(&self, model: &ModelName) -> Option<&ModelInput> {
        self.models.get(model)
    }

    /// The problem of this view.
    pub(super) fn problem<'a>(&'a self, view: &'a FleetView, now: Instant) -> PlacementProblem<'a> {
        let nodes = view
            .nodes
            .values()
            .filter(|node| node.phase != NodePhase::Lost)
            .map(|node| capacity(node));
        let models = view.models.iter().filter_map(|(name, model)| {
            let input = self.models.get(name)?;
            Some(ModelDemand {
                name,
                spec: &model.model.spec,
                target: input.target,
                required: input.required,
                memory: model.memory,
                refused_by: &input.refused_by,
                measured: &input.measured,
            })
        });
        // Assignments of models that are gone are known from the nodes only, those to nodes
        // that are gone from the models only.
        let of_models = view.models.iter().flat_map(|(name, model)| {
            let goal = self.models.get(name).map(|input| input.revisions.goal());
            model.assigned.iter().map(move |(node, revision)| {
                let known = view.nodes.get(node);
                CurrentReplica {
                    node,
                    model: name,
                    ready: known.is_some_and(|known| answers(known, name).is_some()),
                    outdated: goal != Some(*revision),
                    idle: known.and_then(|known| known.report.load().idle(name, now)),
                }
            })
        });
        let of_nodes = view.nodes.iter().flat_map(|(name, node)| {
            let gone = node.assigned.iter();
            gone.filter(|model| !view.models.contains_key(*model))
                .map(move |model| CurrentReplica {
                    node: name,
                    model,
                    ready: false,
                    outdated: true,
                    idle: None,
                })
        });
        PlacementProblem {
            nodes: nodes.collect(),
            models: models.collect(),
            standing: of_models.chain(of_nodes).collect(),
        }
    }
}

impl ModelInput {
    fn new(view: &FleetView, model: &ModelView, scalers: &ModelScalers) -> Self {
        let name = model.model.name();
        let spec = &model.model.spec;
        let replicas: Vec<_> = model
            .assigned
            .iter()
            .map(|(node, revision)| rollout::RolloutReplica {
                node,
                assigned: *revision,
                answers: view.nodes.get(node).and_then(|node| answers(node, name)),
                failed: model
                    .failures
                    .get(node)
                    .is_some_and(|failed| failed.revision == *revision),
            })
            .collect();
        let mut revisions = model.revisions;
        if !model.resolved {
            // What is served stays until the files of what is wished for are there.
            revisions.condemned = Some(revisions.wished);
        }
        let step = rollout::next(revisions, &replicas);
        if let RolloutStep::RollBack(_) = step {
            revisions.condemned = Some(revisions.wished);
        }
        let goal = revisions.goal();
        let known = scalers.target(name).unwrap_or_else(|| {
            let placed = u32::try_from(replicas.len()).unwrap_or(u32::MAX);
            let awake = placed.max(u32::from(model.waiting > 0));
            awake.clamp(spec.replicas.min, spec.replicas.max)
        });
        let known = if model.resolved || revisions.stable.is_some() {
            known
        } else {
            u32::try_from(replicas.len()).unwrap_or(u32::MAX)
        };
        let proven = replicas
            .iter()
            .any(|r| r.assigned == goal && r.answers == Some(goal));
        let sole = known == 1;
        let step = match step {
            RolloutStep::Wait => RolloutAction::Wait,
            RolloutStep::Settled => RolloutAction::Settled,
            RolloutStep::RollBack(node) => RolloutAction::RollBack(node.clone()),
            // The other one answers already: this one is not needed any more.
            RolloutStep::Change(_) if sole && proven => RolloutAction::Wait,
            RolloutStep::Change(nodes) => {
                let answering = replicas.iter().find(|r| r.answers.is_some());
                match answering.filter(|r| nodes.contains(&r.node)) {
                    Some(only) if sole && !fits_beside(view, model, only.node) => {
                        RolloutAction::Surge(only.node.clone())
                    }
                    _ => RolloutAction::Change(nodes.into_iter().cloned().collect()),
                }
            }
        };
        // A second one takes the place of the only one; until it answers there are two.
        let under_way = !proven
            && replicas.iter().any(|r| r.assigned == goal)
            && replicas.iter().any(|r| r.assigned != goal);
        let surges = sole && (under_way || matches!(step, RolloutAction::Surge(_)));
        let target = known + u32::from(surges);
        let waits = u32::from(model.waiting > 0);
        Self {
            revisions,
            step,
            target,
            required: spec.replicas.min.max(waits),
            refused_by: model
                .failures
                .iter()
                .filter(|(_, failed)| failed.revision == goal)
                .map(|(node, failed)| (node.clone(), failed.problem.clone()))
                .collect(),
            measured: measured(view, model),
        }
    }
}

/// The revision that a node's replica of a model answers with.
fn answers(node: &NodeView, model: &ModelName) -> Option<ModelRevision> {
    if node.phase != NodePhase::Ready {
        return None;
    }
    let report = node.report.load();
    let status = report.model(model)?;
    (status.phase() == ModelPhase::Ready).then_some(ModelRevision(status.revision))
}

/// Whether a second replica of `model` fits on the node beside all that is there: then the
/// node changes it without a gap.
fn fits_beside(view: &FleetView, model: &ModelView, node: &NodeName) -> bool {
    let (Some(needed), Some(node)) = (model.memory, view.nodes.get(node)) else {
        return false;
    };
    let others = node
        .assigned
        .iter()
        .filter_map(|name| view.models.get(name));
    let taken: Bytes = others.map(|other| other.memory.unwrap_or_default()).sum();
    taken + needed <= node.record.memory
}

fn capacity(node: &NodeView) -> NodeCapacity<'_> {
    let record = &node.record;
    let open = match (node.order, node.phase) {
        (order, _) if order.draining && order.force => Schedulability::Closed,
        (order, _) if order.draining => Schedulability::Draining,
        (order, _) if order.cordoned => Schedulability::Cordoned,
        (_, NodePhase::Ready) if node.steady => Schedulability::Open,
        (_, NodePhase::Ready) => Schedulability::Unsteady,
        _ => Schedulability::Away,
    };
    NodeCapacity {
        name: &node.name,
        memory: record.memory,
        labels: &record.labels,
        taints: &record.taints,
        zone: record.zone.as_ref(),
        accelerators: &record.accelerators,
        open,
        handicap: f64::from(node.report.load().strain().factor()),
    }
}

/// What a model was found to do, where it ran for long enough to tell.
fn measured(view: &FleetView, model: &ModelView) -> HashMap<NodeName, MeasuredPerformance> {
    /// Output tokens from which on their pace says something.
    const ENOUGH: u64 = 200;
    let measured = model.assigned.keys().filter_map(|name| {
        let report = view.nodes.get(name)?.report.load();
        let counters = report.model(model.model.name())?.counters?;
        if counters.output_tokens < ENOUGH || counters.busy_us == 0 {
            return None;
        }
        let seconds = counters.busy_us as f64 / 1e6;
        let measured = MeasuredPerformance {
            tokens_per_second: Some(counters.output_tokens as f64 / seconds),
            joules_per_token: (counters.millijoules > 0)
                .then(|| counters.millijoules as f64 / 1e3 / counters.output_tokens as f64),
        };
        Some((name.clone(), measured))
    });
    measured.collect()
}
