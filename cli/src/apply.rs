//! `flotilla apply`.

use std::time::Duration;

use flotilla_controller::admin::{ApplyReply, ApplyResult, TaskResource};
use flotilla_core::spec::{FieldChange, Model, ModelSource, Resource};

use crate::args::ApplyArgs;
use crate::client::{FleetClient, ListResponse};
use crate::manifest::{self, ResourceDocument};

/// Maximum time to wait until the classifier is trained for changed tasks.
const TRAINING_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval at which the state of the training is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Applies the resources in the files. All files are read before anything is changed.
pub(crate) async fn run(args: ApplyArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let mut resources = Vec::new();
    for file in &args.files {
        resources.extend(manifest::read(file)?);
    }
    let is_model = |read: &ResourceDocument| matches!(read.resource, Resource::Model(_));
    let affects_classifier = !resources.iter().all(is_model);
    for ResourceDocument { resource, document } in resources {
        let (noun, path) = manifest::noun_and_path(&resource);
        let reply: ApplyReply = fleet.put(&path, &document).await?;
        println!("{noun}/{} {}", resource.name(), result_text(&reply));
        for change in &reply.changes {
            println!("  {}", change_text(change));
        }
        let missing_path = match &resource {
            Resource::Model(model) => missing_path(model),
            Resource::Task(_) | Resource::Router(_) => None,
        };
        for warning in reply.warnings.iter().chain(&missing_path) {
            eprintln!("warning: {noun}/{}: {warning}", resource.name());
        }
    }
    if affects_classifier {
        wait_until_trained(&fleet).await?;
    }
    Ok(())
}

fn result_text(reply: &ApplyReply) -> &'static str {
    match reply.result {
        ApplyResult::Created => "created",
        ApplyResult::Configured => "configured",
        ApplyResult::Unchanged if reply.retries_failed_revision => {
            "unchanged: its failed revision is tried again"
        }
        ApplyResult::Unchanged => "unchanged",
    }
}

/// Returns a changed field with its values, and whether the manifest left it to its default.
fn change_text(change: &FieldChange) -> String {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".into());
    let by_default = if change.by_default {
        " (the manifest does not name it: its default applies)"
    } else {
        ""
    };
    format!(
        "{}: {} → {}{by_default}",
        change.field,
        value(&change.before),
        value(&change.after)
    )
}

/// Returns the warning for a model whose files are not at their path on this machine. They must be there
/// on the nodes, of which this machine may be none.
fn missing_path(model: &Model) -> Option<String> {
    let Some(ModelSource::Path(path)) = &model.spec.source else {
        return None;
    };
    (!path.exists()).then(|| {
        format!(
            "spec.source.path: {} does not exist on this machine; it must exist on every node that may serve the model",
            path.display()
        )
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_fields_are_shown_with_both_values_and_whether_the_default_applies() {
        let mut change = FieldChange {
            field: "spec.abstain.minConfidence".into(),
            before: Some("0.3".into()),
            after: None,
            by_default: true,
        };
        assert_eq!(
            change_text(&change),
            "spec.abstain.minConfidence: 0.3 → not set (the manifest does not name it: its default applies)"
        );
        change.by_default = false;
        change.after = Some("0.4".into());
        assert_eq!(
            change_text(&change),
            "spec.abstain.minConfidence: 0.3 → 0.4"
        );
    }
}
