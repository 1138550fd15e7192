//! `flotilla delete`.

use flotilla_core::spec::Resource;

use crate::args::{DeletableKind, DeleteArgs};
use crate::client::FleetClient;
use crate::manifest;

/// Deletes the named resources, and those named by files. All files are read before anything is
/// deleted.
pub(crate) async fn run(args: DeleteArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let mut targets: Vec<(DeletableKind, String)> = Vec::new();
    if let Some(kind) = args.kind {
        targets.extend(args.names.into_iter().map(|name| (kind, name)));
    }
    for file in &args.files {
        for manifest::ResourceDocument { resource, .. } in manifest::read(file)? {
            let kind = match &resource {
                Resource::Model(_) => DeletableKind::Model,
                Resource::Task(_) => DeletableKind::Task,
                Resource::Router(_) => DeletableKind::Router,
            };
            targets.push((kind, resource.name().to_owned()));
        }
    }
    for (kind, name) in targets {
        let (collection, noun) = match kind {
            DeletableKind::Node => ("nodes", "node"),
            DeletableKind::Model => ("models", "model"),
            DeletableKind::Task => ("tasks", "task"),
            DeletableKind::Router => ("routers", "router"),
            DeletableKind::Artifact => ("artifacts", "artifact"),
        };
        fleet.delete(&["api", "v1", collection, &name]).await?;
        println!("{noun}/{name} deleted");
    }
    Ok(())
}
