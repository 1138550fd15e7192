//! `flotilla cordon`, `uncordon` and `drain`.

use std::time::Duration;

use anyhow::bail;
use flotilla_controller::admin::{ModelResource, ModelStatus, NodeResource, UNREACHABLE};
use flotilla_controller::fleet::NodeOperationRecord;

use crate::args::{CordonArgs, DrainArgs};
use crate::client::FleetClient;

/// Largest number of remaining models that are described with their reason.
const MAX_DESCRIBED: usize = 5;
/// Interval at which the models of a draining node are polled.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// Maximum time for replicas to stop after a forced removal: twice the time that agents give active
/// requests by default.
const FORCED_REMOVAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Marks nodes as unschedulable.
pub(crate) async fn cordon(args: CordonArgs) -> anyhow::Result<()> {
    let operation = NodeOperationRecord {
        cordoned: true,
        ..NodeOperationRecord::default()
    };
    set_operations(args, operation, "cordoned").await
}

/// Marks nodes as schedulable, and ends their drains.
pub(crate) async fn uncordon(args: CordonArgs) -> anyhow::Result<()> {
    set_operations(args, NodeOperationRecord::default(), "uncordoned").await
}

async fn set_operations(
    args: CordonArgs,
    operation: NodeOperationRecord,
    result: &str,
) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    for name in &args.names {
        set_operation(&fleet, name, operation).await?;
        println!("node/{name} {result}");
    }
    Ok(())
}

async fn set_operation(
    fleet: &FleetClient,
    name: &str,
    operation: NodeOperationRecord,
) -> anyhow::Result<()> {
    let path = ["api", "v1", "nodes", name, "operation"];
    fleet.put_ignoring_response(&path, &operation).await
}

/// Drains a node: cordons it, moves its models to other nodes and waits until it has none.
pub(crate) async fn drain(args: DrainArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let mut operation = NodeOperationRecord {
        cordoned: true,
        draining: true,
        force: false,
    };
    set_operation(&fleet, &args.name, operation).await?;
    println!("node/{} draining", args.name);
    fleet.print_readiness_notes().await;
    let mut remaining = wait_until_empty(&fleet, &args.name, args.timeout).await?;
    if !remaining.is_empty() && args.force {
        println!(
            "removing {}, which could not be moved to another node in time",
            remaining.join(", ")
        );
        operation.force = true;
        set_operation(&fleet, &args.name, operation).await?;
        remaining = wait_until_empty(&fleet, &args.name, FORCED_REMOVAL_TIMEOUT).await?;
    }
    if !remaining.is_empty() {
        bail!(
            "{} still has {}: use --force to remove all models, or `flotilla uncordon {}` to end the drain",
            args.name,
            describe_remaining(&fleet, &args.name, &remaining).await,
            args.name
        );
    }
    println!("node/{} drained", args.name);
    Ok(())
}

/// Waits until a node has no models, at most for `timeout`. Returns the models that remain.
async fn wait_until_empty(
    fleet: &FleetClient,
    name: &str,
    timeout: Duration,
) -> anyhow::Result<Vec<String>> {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut reported = String::new();
    loop {
        let node: NodeResource = fleet.get(&["api", "v1", "nodes", name]).await?;
        let mut remaining = node.status.assigned;
        // An unreachable node may still run what it last reported, which nobody can learn or change.
        let reported_models = node.status.models.into_iter();
        for model in reported_models.filter(|model| model.phase != UNREACHABLE) {
            if !remaining.contains(&model.name) {
                remaining.push(model.name);
            }
        }
        if remaining.is_empty() || tokio::time::Instant::now() >= deadline {
            return Ok(remaining);
        }
        let waiting_for = describe_remaining(fleet, name, &remaining).await;
        if waiting_for != reported {
            let remaining = deadline.saturating_duration_since(tokio::time::Instant::now());
            println!(
                "waiting for {waiting_for}; {} s at most",
                remaining.as_secs()
            );
            reported = waiting_for;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Returns the models that remain on a node, the first ones with the reason.
async fn describe_remaining(fleet: &FleetClient, node: &str, remaining: &[String]) -> String {
    let mut texts = Vec::new();
    for name in remaining.iter().take(MAX_DESCRIBED) {
        let model: anyhow::Result<ModelResource> =
            fleet.get(&["api", "v1", "models", name.as_str()]).await;
        texts.push(match model {
            Ok(model) => format!("{name} ({})", waiting_reason(&model.status, node)),
            Err(_) => name.clone(),
        });
    }
    if remaining.len() > MAX_DESCRIBED {
        texts.push(format!("{} more", remaining.len() - MAX_DESCRIBED));
    }
    texts.join(", ")
}

/// Returns why a model is still on a draining node.
fn waiting_reason(status: &ModelStatus, node: &str) -> String {
    let (here, others): (Vec<_>, Vec<_>) = status.replicas.iter().partition(|r| r.node == node);
    let Some(here) = here.first() else {
        return "it has been moved and finishes its requests there".into();
    };
    if let Some(reason) = &status.unplaced_reason {
        return reason.clone();
    }
    let coming = others.iter().find(|replica| replica.phase != "Ready");
    if let Some(replica) = coming {
        let detail = [&replica.error, &replica.progress];
        let detail = detail.into_iter().find(|text| !text.is_empty());
        let detail = detail.and_then(|text| text.lines().next());
        return match detail {
            Some(detail) => format!("its replica on {} is not ready: {detail}", replica.node),
            None => format!(
                "its replica on {} is not ready: {}",
                replica.node,
                replica.phase.to_lowercase()
            ),
        };
    }
    match here.counters.active + here.counters.queued {
        0 => "it is about to be moved".into(),
        1 => "it has 1 request to finish".into(),
        requests => format!("it has {requests} requests to finish"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_controller::admin::CountersJson;
    use serde_json::json;

    #[test]
    fn drain_says_what_it_waits_for_and_why() {
        let replica = |node: &str, phase: &str, progress: &str, active: u32| {
            let mut counters = serde_json::to_value(CountersJson::default()).unwrap();
            counters["active"] = json!(active);
            json!({"node": node, "phase": phase, "progress": progress, "counters": counters})
        };
        let reason = |replicas: serde_json::Value, unplaced: Option<&str>| {
            let status = json!({
                "phase": "Partial", "ready": 1, "created": 0, "replicas": replicas,
                "unplacedReason": unplaced,
            });
            waiting_reason(&serde_json::from_value(status).unwrap(), "n1")
        };
        let here = replica("n1", "Ready", "", 2);
        assert_eq!(
            reason(
                json!([here]),
                Some("1 replica cannot be placed: 0/2 nodes are suitable")
            ),
            "1 replica cannot be placed: 0/2 nodes are suitable"
        );
        assert_eq!(
            reason(
                json!([here, replica("n2", "Loading", "weights 40 %", 0)]),
                None
            ),
            "its replica on n2 is not ready: weights 40 %"
        );
        assert_eq!(
            reason(json!([here, replica("n2", "Ready", "", 0)]), None),
            "it has 2 requests to finish"
        );
        assert_eq!(
            reason(json!([replica("n2", "Ready", "", 0)]), None),
            "it has been moved and finishes its requests there"
        );
    }
}
