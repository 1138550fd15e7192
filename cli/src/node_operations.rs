//! `flotilla cordon`, `uncordon` and `drain`.

use std::time::Duration;

use anyhow::bail;
use flotilla_controller::admin::NodeResource;
use flotilla_controller::fleet::NodeOperationRecord;

use crate::args::{CordonArgs, DrainArgs};
use crate::client::FleetClient;

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
            "{} still has {}: see `flotilla describe model {}` for the reason, use --force to remove all models, or `flotilla uncordon {}` to end the drain",
            args.name,
            remaining.join(", "),
            remaining[0],
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
    let mut reported = Vec::new();
    loop {
        let node: NodeResource = fleet.get(&["api", "v1", "nodes", name]).await?;
        let mut remaining = node.status.assigned;
        for model in node.status.models {
            if !remaining.contains(&model.name) {
                remaining.push(model.name);
            }
        }
        if remaining.is_empty() || tokio::time::Instant::now() >= deadline {
            return Ok(remaining);
        }
        if remaining != reported {
            println!("waiting for {}", remaining.join(", "));
            reported.clone_from(&remaining);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
