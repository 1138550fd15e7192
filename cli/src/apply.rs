//! `flotilla apply`.

use std::collections::HashSet;
use std::time::Duration;

use flotilla_controller::admin::{ApplyBatchReply, ApplyReply, ApplyResult, ClassifierStatus};
use flotilla_core::spec::{FieldChange, Model, ModelSource, Resource};
use serde_json::json;

use crate::args::ApplyArgs;
use crate::client::{FleetClient, read_json};
use crate::manifest::{self, ResourceDocument};
use crate::separation_text;

/// Maximum time to wait until the classifier is trained for changed tasks.
const TRAINING_TIMEOUT: Duration = Duration::from_secs(30);
/// The most resources that are sent at once, so that results are seen meanwhile.
const BATCH_RESOURCES: usize = 250;
/// The most bytes of resources that are sent at once; more only if one resource has more.
const BATCH_BYTES: usize = 4 << 20;
/// Interval at which the state of the training is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Applies the resources in the files. All files are read before anything is changed.
pub(crate) async fn run(args: ApplyArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let resources = manifest::read_all(&args.files)?;
    let mut tasks_changed = false;
    for batch in batches(resources) {
        let documents: Vec<_> = batch.iter().map(|read| &read.document).collect();
        let body = json!({ "resources": documents });
        let reply = fleet.post(&["api", "v1", "apply"], &body).await?;
        let reply: ApplyBatchReply = read_json(reply).await?;
        for (read, applied) in batch.iter().zip(&reply.results) {
            print_result(&read.resource, &applied.reply);
            let is_model = matches!(read.resource, Resource::Model(_));
            tasks_changed |= !is_model && applied.reply.result != ApplyResult::Unchanged;
        }
    }
    fleet.print_readiness_notes().await;
    if tasks_changed {
        report_training(&fleet).await?;
    }
    Ok(())
}

/// Divides resources into requests, in order. A resource that occurs again begins another one, so that
/// the last occurrence counts.
fn batches(resources: Vec<ResourceDocument>) -> Vec<Vec<ResourceDocument>> {
    let mut batches: Vec<Vec<ResourceDocument>> = Vec::new();
    let mut names = HashSet::new();
    let mut bytes = 0;
    for read in resources {
        let name = (read.resource.kind(), read.resource.name().to_owned());
        let size = read.document.to_string().len();
        let is_full = batches
            .last()
            .is_none_or(|batch| batch.len() >= BATCH_RESOURCES);
        if is_full || bytes + size > BATCH_BYTES || names.contains(&name) {
            batches.push(Vec::new());
            names.clear();
            bytes = 0;
        }
        names.insert(name);
        bytes += size;
        if let Some(batch) = batches.last_mut() {
            batch.push(read);
        }
    }
    batches
}

/// Prints what applying a resource did.
fn print_result(resource: &Resource, reply: &ApplyReply) {
    let (noun, _) = manifest::noun_and_path(resource);
    println!("{noun}/{} {}", resource.name(), result_text(reply));
    for change in &reply.changes {
        println!("  {}", change_text(change));
    }
    let missing_path = match resource {
        Resource::Model(model) => missing_path(model),
        Resource::Task(_) | Resource::Router(_) => None,
    };
    for warning in reply.warnings.iter().chain(&missing_path) {
        eprintln!("warning: {noun}/{}: {warning}", resource.name());
    }
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

/// Waits until the classifier is trained for all tasks, and prints how well it distinguishes them.
async fn report_training(fleet: &FleetClient) -> anyhow::Result<()> {
    let trained = async {
        let mut interval = tokio::time::interval(POLL_INTERVAL);
        loop {
            interval.tick().await;
            let status: ClassifierStatus = fleet.get(&["api", "v1", "classifier"]).await?;
            if status.trained {
                return anyhow::Ok(status);
            }
        }
    };
    match tokio::time::timeout(TRAINING_TIMEOUT, trained).await {
        Ok(status) => {
            for line in status?.separation.iter().flat_map(separation_text::summary) {
                println!("{line}");
            }
        }
        Err(_) => println!(
            "the classifier is still being trained; until it is, requests are classified as before"
        ),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_and_have_no_resource_twice() {
        let read = |name: &str| {
            let document = json!({
                "apiVersion": "flotilla.dev/v1", "kind": "Model",
                "metadata": {"name": name}, "spec": {"engine": "simulated"},
            });
            let resource = Resource::from_json(document.clone()).unwrap();
            ResourceDocument { resource, document }
        };
        let many = (0..2 * BATCH_RESOURCES + 1).map(|i| read(&format!("m{i}")));
        let lengths = |batches: Vec<Vec<ResourceDocument>>| -> Vec<usize> {
            batches.iter().map(Vec::len).collect()
        };
        assert_eq!(
            lengths(batches(many.collect())),
            [BATCH_RESOURCES, BATCH_RESOURCES, 1]
        );
        let twice = ["a", "b", "a", "c"].map(read).into();
        assert_eq!(lengths(batches(twice)), [2, 2]);
        assert!(batches(Vec::new()).is_empty());
    }

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
