//! `flotilla apply`.

use std::time::Duration;

use flotilla_controller::admin::{ApplyResult, TaskResource};
use flotilla_core::spec::Resource;
use serde::Deserialize;

use crate::args::ApplyArgs;
use crate::client::{FleetClient, ListResponse};
use crate::manifest;

/// Maximum time to wait until the classifier is trained for changed tasks.
const TRAINING_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval at which the state of the training is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Deserialize)]
struct ApplyResponse {
    result: ApplyResult,
}

/// Applies the resources in the files. All files are read before anything is changed.
pub(crate) async fn run(args: ApplyArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let mut resources = Vec::new();
    for file in &args.files {
        resources.extend(manifest::read(file)?);
    }
    let affects_classifier = resources.iter().any(|r| !matches!(r, Resource::Model(_)));
    for resource in resources {
        let (noun, path) = manifest::noun_and_path(&resource);
        let response: ApplyResponse = fleet.put(&path, &resource).await?;
        let result = match response.result {
            ApplyResult::Created => "created",
            ApplyResult::Changed => "changed",
            ApplyResult::Unchanged => "unchanged",
        };
        println!("{noun}/{} {result}", resource.name());
    }
    if affects_classifier {
        wait_until_trained(&fleet).await?;
    }
    Ok(())
}

/// Waits until the classifier is trained for all tasks.
async fn wait_until_trained(fleet: &FleetClient) -> anyhow::Result<()> {
    let trained = async {
        let mut interval = tokio::time::interval(POLL_INTERVAL);
        loop {
            interval.tick().await;
            let tasks: ListResponse<TaskResource> = fleet.get(&["api", "v1", "tasks"]).await?;
            if tasks.into_items().iter().all(|task| task.status.trained) {
                return anyhow::Ok(());
            }
        }
    };
    match tokio::time::timeout(TRAINING_TIMEOUT, trained).await {
        Ok(result) => result,
        Err(_) => {
            println!(
                "the classifier is still being trained; until it is, requests are classified as before"
            );
            Ok(())
        }
    }
}
