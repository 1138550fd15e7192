//! `flotilla get`.

use std::collections::BTreeSet;

use anyhow::bail;
use flotilla_controller::admin::{
    ArtifactResource, AssignmentStatus, ControllerResource, ModelResource, NodeResource,
    RouterResource, TaskResource,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{Format, GetArgs, Kind};
use crate::client::{Fleet, List};
use crate::{describe, output};

/// Lists what was asked for.
pub(crate) async fn run(args: GetArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    match args.kind {
        Kind::Nodes => print(&fleet, &args, "nodes", nodes, |n| &n.metadata.name).await,
        Kind::Models => print(&fleet, &args, "models", models, |m| m.model.name().as_str()).await,
        Kind::Assignments => print(&fleet, &args, "assignments", assignments, |a| &a.model).await,
        Kind::Artifacts => print(&fleet, &args, "artifacts", artifacts, |a| &a.name).await,
        Kind::Tasks => print(&fleet, &args, "tasks", tasks, |t| t.task.name().as_str()).await,
        Kind::Routers => print(&fleet, &args, "routers", routers, |_| "default").await,
        Kind::Controllers => print(&fleet, &args, "controllers", controllers, |c| &c.id).await,
    }
}

async fn print<T: DeserializeOwned + Serialize>(
    fleet: &Fleet,
    args: &GetArgs,
    kind: &str,
    table: fn(&[T]) -> String,
    name: fn(&T) -> &str,
) -> anyhow::Result<()> {
    let path = ["api", "v1", kind];
    let wanted = |items: Vec<T>| -> Vec<T> {
        let is_wanted = |item: &T| {
            args.name
                .as_deref()
                .is_none_or(|wanted| name(item) == wanted)
        };
        items.into_iter().filter(is_wanted).collect()
    };
    if args.watch {
        return follow(fleet, &path, args.output, table, wanted).await;
    }
    if let (Some(name), Kind::Nodes | Kind::Models | Kind::Tasks | Kind::Routers) =
        (&args.name, args.kind)
    {
        let item: T = fleet.get(&["api", "v1", kind, name]).await?;
        if !output::machine(args.output, &item)? {
            print!("{}", table(&[item]));
        }
        return Ok(());
    }
    let items = wanted(fleet.get::<List<T>>(&path).await?.items());
    if !output::machine(args.output, &items)? {
        print!("{}", table(&items));
    }
    Ok(())
}

/// Prints a list, and then what changes in it, for as long as there is a fleet.
async fn follow<T: DeserializeOwned + Serialize>(
    fleet: &Fleet,
    path: &[&str],
    format: Format,
    table: fn(&[T]) -> String,
    wanted: impl Fn(Vec<T>) -> Vec<T>,
) -> anyhow::Result<()> {
    let mut response = fleet.watch(path).await?;
    let mut unread = Vec::new();
    let mut shown = BTreeSet::new();
    while let Some(piece) = response.chunk().await? {
        unread.extend_from_slice(&piece);
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let items = wanted(serde_json::from_slice::<List<T>>(&line)?.items());
            if output::machine(format, &items)? {
                continue;
            }
            // Columns may become wider: what counts is what is in them.
            let text = table(&items);
            let key = |row: &str| row.split_whitespace().collect::<Vec<_>>().join(" ");
            for row in text.lines().filter(|row| !shown.contains(&key(row))) {
                println!("{row}");
            }
            shown = text.lines().map(key).collect();
        }
    }
    bail!("the fleet has ended the list")
}

/// The table of artifacts.
fn artifacts(artifacts: &[ArtifactResource]) -> String {
    let rows = artifacts.iter().map(|artifact| {
        vec![
            artifact.name.clone(),
            artifact.size.to_string(),
            artifact.files.to_string(),
            artifact.digest[..12].to_owned(),
            artifact.models.join(", "),
        ]
    });
    output::table(&["ARTIFACT", "SIZE", "FILES", "DIGEST", "MODELS"], rows)
}

/// The table of tasks.
fn tasks(tasks: &[TaskResource]) -> String {
    let rows = tasks.iter().map(|task| {
        let status = &task.status;
        let models = status.models.iter().map(|model| match model.known {
            true => format!("{} ({} ready)", model.name, model.ready),
            false => format!("{} (no such model)", model.name),
        });
        vec![
            task.task.name().to_string(),
            if status.default { "default" } else { "" }.to_owned(),
            status.examples.to_string(),
            models.collect::<Vec<_>>().join(", "),
            task.task.spec.description.clone(),
        ]
    });
    output::table(&["TASK", "", "EXAMPLES", "MODELS", ""], rows)
}

/// The table of routers, of which there is at most one.
fn routers(routers: &[RouterResource]) -> String {
    let rows = routers.iter().map(|router| {
        let spec = &router.router.spec;
        let task = spec.default_task.as_ref();
        vec![
            router.router.metadata.name.as_str().to_owned(),
            task.map_or_else(|| "none".into(), ToString::to_string),
            describe::abstains(spec.abstain),
            spec.examples.len().to_string(),
        ]
    });
    let header = ["ROUTER", "DEFAULT TASK", "ABSTAINS", "EXAMPLES OF NO TASK"];
    output::table(&header, rows)
}

/// The table of controllers.
fn controllers(controllers: &[ControllerResource]) -> String {
    let rows = controllers.iter().map(|controller| {
        let record = &controller.record;
        let leads = if controller.leads { "leads" } else { "" };
        let this = if controller.this { "answered this" } else { "" };
        let texts = [&controller.id, &record.http, &record.link, &record.version];
        let mut row: Vec<String> = texts.into_iter().cloned().collect();
        row.extend([leads.to_owned(), this.to_owned()]);
        row
    });
    output::table(&["CONTROLLER", "API", "LINK", "VERSION", "ROLE", ""], rows)
}

/// The table of nodes.
pub(crate) fn nodes(nodes: &[NodeResource]) -> String {
    let rows = nodes.iter().map(|node| {
        let models: Vec<_> = node.status.models.iter().map(|m| m.name.as_str()).collect();
        let active: u32 = node.status.models.iter().map(|m| m.counters.active).sum();
        vec![
            node.metadata.name.clone(),
            state(node),
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

/// A node's phase, with what people want of it.
pub(crate) fn state(node: &NodeResource) -> String {
    let status = &node.status;
    let mut state = status.phase.clone();
    let order = status.order;
    if order.draining {
        state += ", draining";
    } else if order.cordoned {
        state += ", cordoned";
    }
    if status.unsteady {
        state += ", unsteady";
    }
    state
}

/// The table of models.
fn models(models: &[ModelResource]) -> String {
    let rows = models.iter().map(|model| {
        let status = &model.status;
        let spec = &model.model.spec;
        let nodes: Vec<_> = status.replicas.iter().map(|r| r.node.as_str()).collect();
        let progress = status.replicas.iter().map(|r| &r.progress);
        let progress: Vec<_> = progress.filter(|p| !p.is_empty()).cloned().collect();
        let notes = [
            status.fetch.clone(),
            status.unplaced.clone(),
            status.rolled_back.clone(),
            (!progress.is_empty()).then(|| progress.join(", ")),
        ];
        let note = notes.into_iter().flatten().next();
        vec![
            model.model.name().to_string(),
            status.phase.clone(),
            format!("{}/{}", status.ready, spec.replicas),
            spec.engine.to_string(),
            nodes.join(", "),
            note.unwrap_or_else(|| spec.description.clone()),
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
