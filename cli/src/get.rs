//! `flotilla get`.

use flotilla_controller::admin::{AssignmentStatus, ModelResource, NodeResource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{GetArgs, Kind};
use crate::client::{Fleet, List};
use crate::output;

/// Lists what was asked for.
pub(crate) async fn run(args: GetArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    match args.kind {
        Kind::Nodes => print(&fleet, &args, "nodes", nodes).await,
        Kind::Models => print(&fleet, &args, "models", models).await,
        Kind::Assignments => print(&fleet, &args, "assignments", assignments).await,
    }
}

async fn print<T: DeserializeOwned + Serialize>(
    fleet: &Fleet,
    args: &GetArgs,
    path: &str,
    table: fn(&[T]) -> String,
) -> anyhow::Result<()> {
    if let Some(name) = &args.name {
        let item: T = fleet.get(&["api", "v1", path, name]).await?;
        if !output::machine(args.output, &item)? {
            print!("{}", table(&[item]));
        }
        return Ok(());
    }
    let List { items } = fleet.get::<List<T>>(&["api", "v1", path]).await?;
    if !output::machine(args.output, &items)? {
        print!("{}", table(&items));
    }
    Ok(())
}

/// The table of nodes.
pub(crate) fn nodes(nodes: &[NodeResource]) -> String {
    let rows = nodes.iter().map(|node| {
        let models: Vec<_> = node.status.models.iter().map(|m| m.name.as_str()).collect();
        let active: u32 = node.status.models.iter().map(|m| m.counters.active).sum();
        vec![
            node.metadata.name.clone(),
            node.status.phase.clone(),
            node.spec.memory.to_string(),
            node.spec.cores.to_string(),
            active.to_string(),
            models.join(", "),
        ]
    });
    output::table(
        &["NODE", "STATE", "MEMORY", "CORES", "ACTIVE", "MODELS"],
        rows,
    )
}

/// The table of models.
fn models(models: &[ModelResource]) -> String {
    let rows = models.iter().map(|model| {
        let status = &model.status;
        let spec = &model.model.spec;
        let nodes: Vec<_> = status.replicas.iter().map(|r| r.node.as_str()).collect();
        vec![
            model.model.name().to_string(),
            status.phase.clone(),
            format!("{}/{}", status.ready, spec.replicas),
            spec.engine.to_string(),
            nodes.join(", "),
            status
                .unplaced
                .clone()
                .unwrap_or_else(|| spec.description.clone()),
        ]
    });
    output::table(&["MODEL", "STATE", "READY", "ENGINE", "NODES", ""], rows)
}

/// The table of assignments.
fn assignments(assignments: &[AssignmentStatus]) -> String {
    let rows = assignments.iter().map(|assignment| {
        let replica = &assignment.replica;
        let notes = [&replica.progress, &replica.problem];
        let notes: Vec<_> = notes
            .into_iter()
            .filter(|n| !n.is_empty())
            .cloned()
            .collect();
        vec![
            assignment.model.clone(),
            replica.node.clone(),
            replica.phase.clone(),
            replica.counters.active.to_string(),
            replica.counters.queued.to_string(),
            replica.counters.requests.to_string(),
            notes.join(" "),
        ]
    });
    let header = ["MODEL", "NODE", "STATE", "ACTIVE", "QUEUED", "REQUESTS", ""];
    output::table(&header, rows)
}
