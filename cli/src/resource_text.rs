//! Short texts about resources that several commands print.

use flotilla_controller::admin::NodeResource;
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
    if status.flapping {
        state += ", flapping";
    }
    state
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

/// Returns a number with its noun, such as `1 node` or `2 nodes`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
