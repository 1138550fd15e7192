//! Short texts about resources that several commands print.

use flotilla_controller::admin::{ModelOnNode, NodeResource, REVOKED};
use flotilla_core::Bytes;
use flotilla_core::spec::AbstainRule;

/// Returns a node's phase, followed by its node operation and its condition.
pub(crate) fn node_state(node: &NodeResource) -> String {
    let status = &node.status;
    let mut state = status.phase.clone();
    let operation = status.operation;
    if operation.draining || status.stopping {
        state += ", draining";
    } else if operation.cordoned {
        state += ", cordoned";
    }
    if status.enrolment.as_deref() == Some(REVOKED) {
        state += ", revoked";
    }
    if status.flapping {
        state += ", flapping";
    }
    state
}

/// Returns the memory of those models on a node, including revisions that are about to replace others, for which `counts`
/// is true.
fn sum_memory(node: &NodeResource, counts: impl Fn(&ModelOnNode) -> bool) -> Bytes {
    let models = node.status.models.iter();
    let all = models.flat_map(|model| [Some(model), model.replacement.as_deref()]);
    let used = all.flatten().filter(|model| counts(model));
    Bytes(used.fold(0, |sum, model| sum.saturating_add(model.memory.0)))
}

/// Returns the memory that models take of the node itself.
pub(crate) fn used_memory(node: &NodeResource) -> Bytes {
    sum_memory(node, |model| !model.on_device)
}

/// Returns the memory that models take of the GPU at an index, of that which there is for them.
pub(crate) fn gpu_memory(node: &NodeResource, index: usize) -> String {
    let is_there =
        |model: &ModelOnNode| model.on_device && model.gpu.unwrap_or_default() as usize == index;
    let gpu = node.spec.gpus.get(index);
    let budget = gpu.map(|gpu| gpu.memory).unwrap_or_default();
    format!("{} of {budget}", sum_memory(node, is_there))
}

/// Returns the memory that models take of a node's GPUs, of that which there is for them, and how many GPUs these are if
/// they are several. `None`: the node has none with memory of its own.
pub(crate) fn device_memory(node: &NodeResource) -> Option<String> {
    let gpus = &node.spec.gpus;
    let budget = Bytes(
        gpus.iter()
            .fold(0, |sum, gpu| sum.saturating_add(gpu.memory.0)),
    );
    let used = sum_memory(node, |model| model.on_device);
    match gpus.len() {
        0 => None,
        1 => Some(format!("{used} of {budget}")),
        count => Some(format!("{used} of {budget} ({count} GPUs)")),
    }
}

/// Returns the disk space that files of models take on a node, of the space that there is for them.
pub(crate) fn disk(node: &NodeResource) -> String {
    let reported = node.status.disk.and_then(|disk| disk.budget);
    let budget = reported.or(node.spec.disk);
    let budget = budget.map(|budget| budget.to_string());
    match (node.status.disk, budget) {
        (Some(disk), Some(budget)) => format!("{} of {budget}", disk.used),
        (Some(disk), None) => disk.used.to_string(),
        (None, Some(budget)) => budget,
        (None, None) => "-".into(),
    }
}

/// Returns the rule by which a router assigns a request to no task.
pub(crate) fn abstain_rule(rule: AbstainRule) -> String {
    match rule {
        AbstainRule::MinConfidence(confidence) => format!("confidence below {confidence}"),
        AbstainRule::FalseAbstentionRate(fraction) => {
            format!("on {} % of the examples of tasks", fraction * 100.0)
        }
    }
}

/// The most names that a cell of a table shows.
const MAX_LISTED_NAMES: usize = 6;

/// Returns the first names, separated by commas, and the number of the others.
pub(crate) fn shortened_list<T: AsRef<str>>(names: &[T]) -> String {
    let listed = &names[..names.len().min(MAX_LISTED_NAMES)];
    let listed: Vec<&str> = listed.iter().map(AsRef::as_ref).collect();
    let text = listed.join(", ");
    match names.len() - listed.len() {
        0 => text,
        others => format!("{text} + {others} more"),
    }
}

/// Returns a number with its noun, such as `1 node` or `2 nodes`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
