//! `flotilla delete`.

use anyhow::bail;
use flotilla_controller::admin::{DeleteBatch, DeleteBatchReply, ResourceName};
use flotilla_core::spec::Resource;

use crate::args::{DeletableKind, DeleteArgs};
use crate::client::{FleetClient, read_json};
use crate::manifest;

/// The most resources that are deleted at once.
const BATCH_RESOURCES: usize = 500;

/// Deletes the named resources, and those named by files. All files are read before anything is
/// deleted. Resources that do not exist are an error after the others were deleted.
pub(crate) async fn run(args: DeleteArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let mut targets: Vec<(DeletableKind, String)> = Vec::new();
    if let Some(kind) = args.kind {
        targets.extend(args.names.into_iter().map(|name| (kind, name)));
    }
    for manifest::ResourceDocument { resource, .. } in manifest::read_all(&args.files)? {
        let kind = match &resource {
            Resource::Model(_) => DeletableKind::Model,
            Resource::Task(_) => DeletableKind::Task,
            Resource::Router(_) => DeletableKind::Router,
        };
        targets.push((kind, resource.name().to_owned()));
    }
    let mut missing = None;
    // In order: a model is deleted before the artifact that it uses.
    for targets in targets.chunk_by(|(one, _), (other, _)| one == other) {
        let kind = targets[0].0;
        let (collection, noun) = match kind {
            DeletableKind::Node => ("nodes", "node"),
            DeletableKind::Model => ("models", "model"),
            DeletableKind::Task => ("tasks", "task"),
            DeletableKind::Router => ("routers", "router"),
            DeletableKind::Artifact => ("artifacts", "artifact"),
        };
        let Some(resource_kind) = resource_kind(kind) else {
            for (_, name) in targets {
                fleet.delete(&["api", "v1", collection, name]).await?;
                println!("{noun}/{name} deleted");
            }
            continue;
        };
        for batch in targets.chunks(BATCH_RESOURCES) {
            let resources = batch.iter().map(|(_, name)| ResourceName {
                kind: resource_kind.to_owned(),
                name: name.clone(),
            });
            let body = DeleteBatch {
                resources: resources.collect(),
            };
            let body = serde_json::to_value(body)?;
            let reply = fleet.post(&["api", "v1", "delete"], &body).await?;
            let reply: DeleteBatchReply = read_json(reply).await?;
            for ((_, name), deleted) in batch.iter().zip(reply.deleted) {
                if deleted {
                    println!("{noun}/{name} deleted");
                } else {
                    missing.get_or_insert(format!("There is no {noun} '{name}'."));
                }
            }
        }
    }
    match missing {
        Some(missing) => bail!("{missing}"),
        None => Ok(()),
    }
}

/// The kind in the resource itself. `None` for what is no resource that is applied.
fn resource_kind(kind: DeletableKind) -> Option<&'static str> {
    match kind {
        DeletableKind::Model => Some("Model"),
        DeletableKind::Task => Some("Task"),
        DeletableKind::Router => Some("Router"),
        DeletableKind::Node | DeletableKind::Artifact => None,
    }
}
