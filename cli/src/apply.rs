//! `flotilla apply`.

use flotilla_controller::admin::Applied;
use serde::Deserialize;

use crate::args::ApplyArgs;
use crate::client::Fleet;
use crate::manifest;

#[derive(Deserialize)]
struct Reply {
    applied: Applied,
}

/// Makes the wish what the files say. All files are read before anything is changed.
pub(crate) async fn run(args: ApplyArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    let mut resources = Vec::new();
    for file in &args.files {
        resources.extend(manifest::read(file)?);
    }
    for resource in resources {
        let (word, path) = manifest::place(&resource);
        let reply: Reply = fleet.put(&path, &resource).await?;
        let done = match reply.applied {
            Applied::Created => "created",
            Applied::Changed => "changed",
            Applied::Unchanged => "unchanged",
        };
        println!("{word}/{} {done}", resource.name());
    }
    Ok(())
}
