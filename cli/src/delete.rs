//! `flotilla delete`.

use flotilla_core::spec::Resource;

use crate::args::{DeleteArgs, Deleted};
use crate::client::Fleet;
use crate::manifest;

/// Removes what was named.
pub(crate) async fn run(args: DeleteArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    let mut things: Vec<(Deleted, String)> = Vec::new();
    if let Some(kind) = args.kind {
        things.extend(args.names.into_iter().map(|name| (kind, name)));
    }
    for file in &args.files {
        for resource in manifest::read(file)? {
            let kind = match &resource {
                Resource::Model(_) => Deleted::Model,
                Resource::Task(_) => Deleted::Task,
                Resource::Router(_) => Deleted::Router,
            };
            things.push((kind, resource.name().to_owned()));
        }
    }
    for (kind, name) in things {
        let (path, word) = match kind {
            Deleted::Node => ("nodes", "node"),
            Deleted::Model => ("models", "model"),
            Deleted::Task => ("tasks", "task"),
            Deleted::Router => ("routers", "router"),
            Deleted::Artifact => ("artifacts", "artifact"),
        };
        fleet.delete(&["api", "v1", path, &name]).await?;
        println!("{word}/{name} deleted");
    }
    Ok(())
}
