//! `flotilla apply`.

use std::time::Duration;

use flotilla_controller::admin::{ApplyResult, TaskResource};
use flotilla_core::spec::Resource;
use serde::Deserialize;

use crate::args::ApplyArgs;
use crate::client::{Fleet, List};
use crate::manifest;

/// Longest wait for a changed set of tasks to be learnt.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the fleet is asked whether it has.
const TICK: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
struct Reply {
    applied: ApplyResult,
}

/// Makes the wish what the files say. All files are read before anything is changed.
pub(crate) async fn run(args: ApplyArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    let mut resources = Vec::new();
    for file in &args.files {
        resources.extend(manifest::read(file)?);
    }
    let routes = resources.iter().any(|r| !matches!(r, Resource::Model(_)));
    for resource in resources {
        let (word, path) = manifest::place(&resource);
        let reply: Reply = fleet.put(&path, &resource).await?;
        let done = match reply.applied {
            ApplyResult::Created => "created",
            ApplyResult::Changed => "changed",
            ApplyResult::Unchanged => "unchanged",
        };
        println!("{word}/{} {done}", resource.name());
    }
    if routes {
        until_learnt(&fleet).await?;
    }
    Ok(())
}

/// Waits until requests are told apart as the tasks now say.
async fn until_learnt(fleet: &Fleet) -> anyhow::Result<()> {
    let learnt = async {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let tasks: List<TaskResource> = fleet.get(&["api", "v1", "tasks"]).await?;
            if tasks.items().iter().all(|task| task.status.learnt) {
                return anyhow::Ok(());
            }
        }
    };
    match tokio::time::timeout(PATIENCE, learnt).await {
        Ok(ended) => ended,
        Err(_) => {
            println!("the tasks are still being learnt: until then requests go as before");
            Ok(())
        }
    }
}
