//! Nodes as the solver sees them.

use std::collections::HashMap;

use flotilla_core::placement::{MeasuredPerformance, NodeCapacity, Schedulability};
use flotilla_core::{Bytes, NodeName};

use crate::fleet::{FleetView, ModelView, NodePhase, NodeView};

/// The number of output tokens from which on the measured speed is meaningful.
const MIN_MEASURED_TOKENS: u64 = 200;

/// Returns the capacity of a node.
pub(super) fn of(node: &NodeView) -> NodeCapacity<'_> {
    let spec = &node.record.spec;
    NodeCapacity {
        name: &node.name,
        memory: spec.memory,
        gpus: spec.gpus.iter().map(|gpu| gpu.memory).collect(),
        disk: node.disk_budget(),
        labels: &node.record.labels,
        taints: &spec.taints,
        zones: &spec.zones,
        accelerators: &spec.accelerators,
        schedulability: schedulability(node),
        pressure_factor: f64::from(node.report.load().pressure().factor()),
    }
}

/// Takes the memory of a node's replicas of models that are not understood off its capacity, as far as it
/// is known: they stay.
pub(super) fn subtract_kept_memory(
    view: &FleetView,
    node: &NodeView,
    capacity: &mut NodeCapacity<'_>,
) {
    let report = node.report.load();
    let kept = view.undecoded.models.iter();
    for (name, _) in kept.filter(|(_, assigned)| assigned.contains_key(&node.name)) {
        let status = report.model(name);
        let reported = status.map(|status| Bytes(status.memory_bytes));
        let on_device = status.is_some_and(|status| status.on_device);
        let model = view.models.get(name);
        let known = model.and_then(|model| model.memory.get(on_device));
        let memory = reported.max(known).unwrap_or_default();
        let gpu = status.and_then(|status| status.gpu).unwrap_or_default();
        match capacity.gpus.get_mut(gpu as usize) {
            Some(gpu) if on_device => *gpu = gpu.saturating_sub(memory),
            _ => capacity.memory = capacity.memory.saturating_sub(memory),
        }
    }
}

/// Returns which replicas a node may have: the operator's operation counts before its phase.
fn schedulability(node: &NodeView) -> Schedulability {
    let operation = node.operation;
    match node.phase {
        _ if operation.draining && operation.force => Schedulability::ForceDraining,
        _ if operation.draining => Schedulability::Draining,
        _ if operation.cordoned => Schedulability::Cordoned,
        _ if node.is_stopping() => Schedulability::Disconnected,
        // A controller that starts knows the nodes from the store alone: it would take the models of any other for
        // those of a deleted node.
        _ if !node.stored => Schedulability::Disconnected,
        NodePhase::Ready if !node.flapping => Schedulability::Schedulable,
        NodePhase::Ready => Schedulability::Flapping,
        NodePhase::Lost if node.is_given_up() => Schedulability::Lost,
        NodePhase::Joining | NodePhase::Suspect | NodePhase::Lost => Schedulability::Disconnected,
    }
}

/// Returns whether a node is away for a moment, and takes models again once it is back.
pub(super) fn may_return(node: &NodeView) -> bool {
    let is_away = matches!(node.phase, NodePhase::Joining | NodePhase::Suspect);
    is_away && !node.is_stopping() && schedulability(node) == Schedulability::Disconnected
}

/// Returns whether a second replica of `model` fits on a node beside everything assigned to it.
/// If so, the node loads the new revision before it stops the old one.
pub(super) fn fits_twice(view: &FleetView, model: &ModelView, node: &NodeName) -> bool {
    let Some(node) = view.nodes.get(node) else {
        return false;
    };
    let spec = &node.record.spec;
    let on_gpu = |model: &ModelView| !spec.gpus.is_empty() && uses_accelerator(view, model);
    let takes_gpu = on_gpu(model);
    let Some(needed) = model.memory.get(takes_gpu) else {
        return false;
    };
    let report = node.report.load();
    let assigned = node.assigned.iter();
    let assigned = assigned.filter_map(|name| Some((name, view.models.get(name)?)));
    let sharing: Vec<_> = assigned
        .filter(|(_, other)| on_gpu(other) == takes_gpu)
        .map(|(name, other)| {
            let gpu = report.model(name).and_then(|status| status.gpu);
            (gpu.unwrap_or_default(), other.memory.get(takes_gpu))
        })
        .collect();
    let used = |gpu: Option<u32>| -> Bytes {
        let here = sharing
            .iter()
            .filter(|(on, _)| gpu.is_none_or(|gpu| gpu == *on));
        here.filter_map(|(_, memory)| *memory).sum()
    };
    if !takes_gpu {
        return used(None) + needed <= spec.memory;
    }
    let mut gpus = (0..).zip(&spec.gpus);
    gpus.any(|(index, gpu)| used(Some(index)) + needed <= gpu.memory)
}

/// Returns whether a model is computed on the accelerator of a node that has one. An adapter is where its base
/// is.
pub(super) fn uses_accelerator(view: &FleetView, model: &ModelView) -> bool {
    let spec = &model.endpoints.model.spec;
    let base = spec.base.as_ref().and_then(|base| view.models.get(base));
    let base = base.map(|base| &base.endpoints.model.spec);
    base.unwrap_or(spec).uses_accelerator()
}

/// Returns the measured speed and energy of a model, by node, where it ran long enough.
pub(super) fn measured_performance(
    view: &FleetView,
    model: &ModelView,
) -> HashMap<NodeName, MeasuredPerformance> {
    let measured = model.assigned.keys().filter_map(|name| {
        let report = view.nodes.get(name)?.report.load();
        let counters = report.model(model.endpoints.model.name())?.counters?;
        if counters.output_tokens < MIN_MEASURED_TOKENS || counters.busy_us == 0 {
            return None;
        }
        let seconds = counters.busy_us as f64 / 1e6;
        let tokens = counters.output_tokens as f64;
        let joules = counters.millijoules as f64 / 1e3;
        let performance = MeasuredPerformance {
            tokens_per_second: Some(tokens / seconds),
            joules_per_token: (joules > 0.0).then_some(joules / tokens),
        };
        Some((name.clone(), performance))
    });
    measured.collect()
}
