//! `flotilla get`: lists resources, once or whenever they change.

use std::collections::BTreeSet;

use anyhow::bail;
use flotilla_controller::admin::{
    ArtifactResource, AssignmentStatus, ControllerResource, ModelResource, NodeResource,
    RouterResource, TaskResource,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{GetArgs, ListableKind, OutputFormat};
use crate::client::{FleetClient, ListResponse, print_notes};
use crate::output;
use crate::resource_text::{abstain_rule, device_memory, disk, node_state, shortened_list};

/// Length at which digests are cut off.
const SHORT_DIGEST: usize = 12;

/// Lists resources of one kind.
pub(crate) async fn run(args: GetArgs) -> anyhow::Result<()> {
    match args.kind {
        ListableKind::Nodes => list(&args, "nodes", nodes, |node| &node.metadata.name).await,
        ListableKind::Models => {
            list(&args, "models", models, |model| model.model.name().as_str()).await
        }
        ListableKind::Assignments => {
            list(&args, "assignments", assignments, |assignment| {
                &assignment.model
            })
            .await
        }
        ListableKind::Artifacts => {
            list(&args, "artifacts", artifacts, |artifact| &artifact.name).await
        }
        ListableKind::Tasks => list(&args, "tasks", tasks, |task| task.task.name().as_str()).await,
        ListableKind::Routers => list(&args, "routers", routers, |_| "default").await,
        ListableKind::Controllers => {
            list(&args, "controllers", controllers, |controller| {
                &controller.id
            })
            .await
        }
    }
}

/// Prints the resources at `/api/v1/{collection}`. If `args.name` is set, prints only the resources
/// with that name.
async fn list<T: DeserializeOwned + Serialize>(
    args: &GetArgs,
    collection: &str,
    table: fn(&[T]) -> String,
    name: fn(&T) -> &str,
) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let path = ["api", "v1", collection];
    let select = |items: Vec<T>| -> Vec<T> {
        let is_selected = |item: &T| {
            args.name
                .as_deref()
                .is_none_or(|selected| name(item) == selected)
        };
        items.into_iter().filter(is_selected).collect()
    };
    if args.watch {
        return watch(&fleet, &path, args.output, table, select).await;
    }
    if let (
        Some(name),
        ListableKind::Nodes | ListableKind::Models | ListableKind::Tasks | ListableKind::Routers,
    ) = (&args.name, args.kind)
    {
        // The API reports a missing resource by name.
        let item: T = fleet.get(&["api", "v1", collection, name]).await?;
        if !output::print_serialized(args.output, &item)? {
            print!("{}", table(&[item]));
        }
        return Ok(());
    }
    let list: ListResponse<T> = fleet.get(&path).await?;
    print_notes(&list.notes);
    let items = select(list.items);
    if !output::print_serialized(args.output, &items)? {
        print!("{}", table(&items));
    }
    Ok(())
}

/// Prints a list, then its changes until the connection ends. In a table, only changed rows are
/// printed.
async fn watch<T: DeserializeOwned + Serialize>(
    fleet: &FleetClient,
    path: &[&str],
    format: OutputFormat,
    table: fn(&[T]) -> String,
    select: impl Fn(Vec<T>) -> Vec<T>,
) -> anyhow::Result<()> {
    let mut response = fleet.watch(path).await?;
    let mut buffer = Vec::new();
    let mut printed_rows = BTreeSet::new();
    let mut printed_notes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        buffer.extend_from_slice(&chunk);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let list: ListResponse<T> = serde_json::from_slice(&line)?;
            if list.notes != printed_notes {
                print_notes(&list.notes);
                printed_notes = list.notes;
            }
            let items = select(list.items);
            if output::print_serialized(format, &items)? {
                continue;
            }
            let text = table(&items);
            // Compares rows without their padding: the width of a column can change.
            let row_key = |row: &str| row.split_whitespace().collect::<Vec<_>>().join(" ");
            let is_new = |row: &&str| !printed_rows.contains(&row_key(row));
            for row in text.lines().filter(is_new) {
                println!("{row}");
            }
            printed_rows = text.lines().map(row_key).collect();
        }
    }
    bail!("the controller closed the connection; run the command again")
}

fn artifacts(artifacts: &[ArtifactResource]) -> String {
    let rows = artifacts.iter().map(|artifact| {
        vec![
            artifact.name.clone(),
            artifact.size.to_string(),
            artifact.files.to_string(),
            artifact.digest[..SHORT_DIGEST].to_owned(),
            shortened_list(&artifact.models),
        ]
    });
    output::table(&["ARTIFACT", "SIZE", "FILES", "DIGEST", "MODELS"], rows)
}

fn tasks(tasks: &[TaskResource]) -> String {
    let rows = tasks.iter().map(|task| {
        let status = &task.status;
        let models = status.models.iter().map(|model| match model.exists {
            true => format!("{} ({} ready)", model.name, model.ready),
            false => format!("{} (no such model)", model.name),
        });
        vec![
            task.task.name().to_string(),
            if status.default { "yes" } else { "" }.to_owned(),
            status.examples.to_string(),
            models.collect::<Vec<_>>().join(", "),
            task.task.spec.description.clone(),
        ]
    });
    let header = ["TASK", "DEFAULT", "EXAMPLES", "MODELS", "DESCRIPTION"];
    output::table(&header, rows)
}

fn routers(routers: &[RouterResource]) -> String {
    let rows = routers.iter().map(|router| {
        let spec = &router.router.spec;
        let task = spec.default_task.as_ref();
        vec![
            router.router.metadata.name.as_str().to_owned(),
            task.map_or_else(|| "none".into(), ToString::to_string),
            abstain_rule(spec.abstain),
            spec.examples.len().to_string(),
        ]
    });
    let header = [
        "ROUTER",
        "DEFAULT TASK",
        "ABSTAINS",
        "OUT-OF-SCOPE EXAMPLES",
    ];
    output::table(&header, rows)
}

fn controllers(controllers: &[ControllerResource]) -> String {
    let rows = controllers.iter().map(|controller| {
        let record = &controller.record;
        let role = if controller.leader {
            "leader"
        } else {
            "follower"
        };
        let note = if controller.local {
            "answered this request"
        } else {
            ""
        };
        let texts = [&controller.id, &record.http, &record.link, &record.version];
        let mut row: Vec<String> = texts.into_iter().cloned().collect();
        row.extend([role.to_owned(), note.to_owned()]);
        row
    });
    let header = ["CONTROLLER", "API", "LINK", "VERSION", "ROLE", "NOTE"];
    output::table(&header, rows)
}

/// Returns the table of nodes. It has a column for the memory of accelerators if a node has one.
pub(crate) fn nodes(nodes: &[NodeResource]) -> String {
    const DEVICE_MEMORY: usize = 3;
    let has_devices = nodes.iter().any(|node| !node.spec.gpus.is_empty());
    let rows = nodes.iter().map(|node| {
        let models: Vec<_> = node.status.models.iter().map(|m| m.name.as_str()).collect();
        let active: u32 = node.status.models.iter().map(|m| m.counters.active).sum();
        let mut row = vec![
            node.metadata.name.clone(),
            node_state(node),
            node.spec.memory.to_string(),
            disk(node),
            node.spec.cores.to_string(),
            active.to_string(),
            shortened_list(&models),
        ];
        if has_devices {
            let device = device_memory(node).unwrap_or_else(|| "-".into());
            row.insert(DEVICE_MEMORY, device);
        }
        row
    });
    let mut header = vec![
        "NODE", "STATE", "MEMORY", "DISK", "CORES", "ACTIVE", "MODELS",
    ];
    if has_devices {
        header.insert(DEVICE_MEMORY, "DEVICE MEMORY");
    }
    output::table(&header, rows)
}

fn models(models: &[ModelResource]) -> String {
    let rows = models.iter().map(|model| {
        let status = &model.status;
        let spec = &model.model.spec;
        let nodes: Vec<_> = status.replicas.iter().map(|r| r.node.as_str()).collect();
        let progress = status.replicas.iter().map(|r| &r.progress);
        let progress: Vec<_> = progress.filter(|p| !p.is_empty()).cloned().collect();
        let progress = (!progress.is_empty()).then(|| progress.join(", "));
        let note = status.problem().or(progress);
        let engine = match &spec.base {
            Some(base) => format!("adapter of {base}"),
            None => spec.engine.to_string(),
        };
        vec![
            model.model.name().to_string(),
            status.phase.clone(),
            format!("{}/{}", status.ready, spec.replicas),
            engine,
            shortened_list(&nodes),
            note.unwrap_or_else(|| spec.description.clone()),
        ]
    });
    output::table(
        &["MODEL", "STATE", "READY", "ENGINE", "NODES", "NOTE"],
        rows,
    )
}

fn assignments(assignments: &[AssignmentStatus]) -> String {
    let rows = assignments.iter().map(|assignment| {
        let replica = &assignment.replica;
        let notes = [&replica.progress, &replica.error];
        let notes: Vec<_> = notes
            .into_iter()
            .filter(|note| !note.is_empty())
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
    let header = [
        "MODEL", "NODE", "STATE", "ACTIVE", "QUEUED", "REQUESTS", "NOTE",
    ];
    output::table(&header, rows)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, gpus: &[u64]) -> NodeResource {
        let model = |name: &str, on_device: bool| {
            json!({
                "name": name, "phase": "Ready", "memory": 1_u64 << 30, "onDevice": on_device,
                "counters": {
                    "active": 0, "queued": 0, "requests": 0, "cancelled": 0, "failed": 0,
                    "refused": 0, "promptTokens": 0, "outputTokens": 0,
                },
            })
        };
        let has_gpu = !gpus.is_empty();
        let gpus = gpus
            .iter()
            .map(|memory| json!({"uuid": "GPU-1", "name": "Fake", "memory": memory}));
        let gpus: Vec<Value> = gpus.collect();
        let node = json!({
            "apiVersion": "flotilla.dev/v1", "kind": "Node", "metadata": {"name": name},
            "spec": {
                "memory": 8_u64 << 30, "gpus": gpus, "cores": 4, "cpu": "N100",
                "platform": "x86_64-linux", "version": "0.1.0",
            },
            "status": {"phase": "Ready", "models": [model("a", has_gpu), model("b", false)]},
        });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn a_long_list_of_names_is_cut_off_with_the_number_of_the_others() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        assert_eq!(shortened_list(&names), "a, b, c, d, e, f + 2 more");
        assert_eq!(shortened_list(&names[..6]), "a, b, c, d, e, f");
        assert_eq!(shortened_list(&names[..0]), "");
    }

    #[test]
    fn adapters_are_listed_with_their_base() {
        let model = |name: &str, spec: Value| -> ModelResource {
            let model = json!({
                "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
                "spec": spec,
                "status": {"phase": "Asleep", "ready": 0, "created": 1, "replicas": []},
            });
            serde_json::from_value(model).unwrap()
        };
        let source = json!({"artifact": "a"});
        let table = models(&[
            model("chat", json!({"source": source})),
            model("tone", json!({"source": source, "base": "chat"})),
        ]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].ends_with(" auto"), "{table}");
        assert!(lines[2].ends_with(" adapter of chat"), "{table}");
    }

    #[test]
    fn memory_of_accelerators_is_shown_where_a_node_has_one() {
        let plain = node("n1", &[]);
        assert!(!nodes(std::slice::from_ref(&plain)).contains("DEVICE"));
        let table = nodes(&[
            plain,
            node("n2", &[22 << 30]),
            node("n3", &[22 << 30, 10 << 30]),
        ]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].contains("DEVICE MEMORY"), "{table}");
        assert!(lines[2].contains("1.0 GiB of 22.0 GiB "), "{table}");
        assert!(lines[3].contains("1.0 GiB of 32.0 GiB (2 GPUs)"), "{table}");
    }
}
