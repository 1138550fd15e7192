//! `flotilla cordon`, `uncordon` and `drain`.

use std::time::Duration;

use anyhow::bail;
use flotilla_controller::admin::NodeResource;
use flotilla_controller::fleet::NodeOperationRecord;

use crate::args::{DrainArgs, NodeArgs};
use crate::client::Fleet;

/// How often is looked whether a node is empty.
const LOOK: Duration = Duration::from_millis(300);
/// How long models may take to leave once they are sent away: what agents give requests under
/// way by default, and some.
const LAST_CALL: Duration = Duration::from_secs(60);

/// Gives nodes no new models.
pub(crate) async fn cordon(args: NodeArgs) -> anyhow::Result<()> {
    let order = NodeOperationRecord {
        cordoned: true,
        ..NodeOperationRecord::default()
    };
    each(args, order, "cordoned").await
}

/// Gives nodes new models again.
pub(crate) async fn uncordon(args: NodeArgs) -> anyhow::Result<()> {
    each(args, NodeOperationRecord::default(), "uncordoned").await
}

async fn each(args: NodeArgs, order: NodeOperationRecord, done: &str) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    for name in &args.names {
        tell(&fleet, name, order).await?;
        println!("node/{name} {done}");
    }
    Ok(())
}

async fn tell(fleet: &Fleet, name: &str, order: NodeOperationRecord) -> anyhow::Result<()> {
    let path = ["api", "v1", "nodes", name, "order"];
    fleet.put_only(&path, &order).await
}

/// Moves a node's models elsewhere and waits until it has none.
pub(crate) async fn drain(args: DrainArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    let mut order = NodeOperationRecord {
        cordoned: true,
        draining: true,
        force: false,
    };
    tell(&fleet, &args.name, order).await?;
    println!("node/{} is being drained", args.name);
    let mut left = until_empty(&fleet, &args.name, args.timeout).await?;
    if !left.is_empty() && args.force {
        println!(
            "no other place for {}: leaving all the same",
            left.join(", ")
        );
        order.force = true;
        tell(&fleet, &args.name, order).await?;
        left = until_empty(&fleet, &args.name, LAST_CALL).await?;
    }
    if !left.is_empty() {
        bail!(
            "{} still has {}: `flotilla describe model {}` says why; --force has them leave, `flotilla uncordon {}` takes the drain back",
            args.name,
            left.join(", "),
            left[0],
            args.name
        );
    }
    println!("node/{} drained", args.name);
    Ok(())
}

/// Waits until a node has no models. Returns those it has when `time` is over.
async fn until_empty(fleet: &Fleet, name: &str, time: Duration) -> anyhow::Result<Vec<String>> {
    let deadline = tokio::time::Instant::now() + time;
    let mut told = Vec::new();
    loop {
        let node: NodeResource = fleet.get(&["api", "v1", "nodes", name]).await?;
        let mut left = node.status.assigned;
        for model in node.status.models {
            if !left.contains(&model.name) {
                left.push(model.name);
            }
        }
        if left.is_empty() || tokio::time::Instant::now() >= deadline {
            return Ok(left);
        }
        if left != told {
            println!("waiting for {}", left.join(", "));
            told.clone_from(&left);
        }
        tokio::time::sleep(LOOK).await;
    }
}
