//! `flotilla backup` and `flotilla restore`.

use std::io::Write;

use anyhow::{Context, bail};
use flotilla_controller::admin::{ModelResource, NodeResource, RouterResource, TaskResource};
use flotilla_controller::fleet::NodeOperationRecord;
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::Resource;
use serde::{Deserialize, Serialize};

use crate::args::{BackupArgs, RestoreArgs};
use crate::client::{Fleet, List};
use crate::manifest;

/// The whole wish, as it is written to a file: a YAML document each. Models, tasks and the router
/// have the form in which they are applied, so that `flotilla apply -f` takes them too.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Part {
    Resource(Box<Resource>),
    Order(NodeOrder),
    Artifact(Artifact),
}

/// What people want of a node.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NodeOrder {
    api_version: String,
    kind: OrderKind,
    metadata: Named,
    spec: NodeOperationRecord,
}

/// The files of a pushed model, by their digests.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Artifact {
    api_version: String,
    kind: ArtifactKind,
    metadata: Named,
    spec: Manifest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Serialize, Deserialize)]
enum OrderKind {
    NodeOrder,
}

#[derive(Serialize, Deserialize)]
enum ArtifactKind {
    Artifact,
}

const API_VERSION: &str = flotilla_core::spec::API_VERSION;

/// Writes the whole wish.
pub(crate) async fn backup(args: BackupArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    let mut parts = Vec::new();
    let artifacts: Vec<(String, Manifest)> = fleet.get(&["api", "v1", "manifests"]).await?;
    parts.extend(artifacts.into_iter().map(|(name, spec)| {
        Part::Artifact(Artifact {
            api_version: API_VERSION.into(),
            kind: ArtifactKind::Artifact,
            metadata: Named { name },
            spec,
        })
    }));
    let models: List<ModelResource> = fleet.get(&["api", "v1", "models"]).await?;
    let models = models.items().into_iter().map(|m| Resource::Model(m.model));
    let tasks: List<TaskResource> = fleet.get(&["api", "v1", "tasks"]).await?;
    let tasks = tasks.items().into_iter().map(|t| Resource::Task(t.task));
    let routers: List<RouterResource> = fleet.get(&["api", "v1", "routers"]).await?;
    let routers = routers
        .items()
        .into_iter()
        .map(|r| Resource::Router(r.router));
    let resources = models.chain(tasks).chain(routers);
    parts.extend(resources.map(|resource| Part::Resource(Box::new(resource))));
    let nodes: List<NodeResource> = fleet.get(&["api", "v1", "nodes"]).await?;
    let ordered = nodes
        .items()
        .into_iter()
        .filter(|node| node.status.order != NodeOperationRecord::default());
    parts.extend(ordered.map(|node| {
        Part::Order(NodeOrder {
            api_version: API_VERSION.into(),
            kind: OrderKind::NodeOrder,
            metadata: Named {
                name: node.metadata.name,
            },
            spec: node.status.order,
        })
    }));
    let mut text = String::new();
    for part in &parts {
        text += "---\n";
        text += &serde_yaml_ng::to_string(part)?;
    }
    match &args.file {
        None => std::io::stdout().write_all(text.as_bytes())?,
        Some(file) => {
            // Whole or not at all: an older backup is worth more than half a new one.
            let new = file.with_extension("new");
            std::fs::write(&new, text)
                .and_then(|()| std::fs::rename(&new, file))
                .with_context(|| format!("cannot write {}", file.display()))?;
            println!("{} resources written to {}", parts.len(), file.display());
        }
    }
    Ok(())
}

/// Makes the wish what a backup says. What it does not name stays.
pub(crate) async fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    let name = args.file.display().to_string();
    let text =
        std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {name}"))?;
    // All of it is read before anything is changed.
    let mut parts = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let part = Part::deserialize(document)
            .with_context(|| format!("{name}: document {} is of no backup", parts.len() + 1))?;
        parts.push(part);
    }
    if parts.is_empty() {
        bail!("{name} holds nothing");
    }
    for part in &parts {
        match part {
            Part::Artifact(artifact) => {
                let name = artifact.metadata.name.as_str();
                let path = ["api", "v1", "artifacts", name];
                let put: flotilla_controller::admin::Missing =
                    fleet.put(&path, &artifact.spec).await?;
                if put.missing.is_empty() {
                    println!("artifact/{name} restored");
                } else {
                    println!(
                        "artifact/{name}: {} files are not with the controllers any more: run `flotilla model push DIR --name {name}`",
                        put.missing.len()
                    );
                }
            }
            Part::Resource(resource) => {
                let (word, path) = manifest::place(resource);
                fleet.put_only(&path, resource).await?;
                println!("{word}/{} restored", resource.name());
            }
            Part::Order(order) => {
                let name = order.metadata.name.as_str();
                let path = ["api", "v1", "nodes", name, "order"];
                fleet
                    .put_with(&path, Some("ahead=true"), &order.spec)
                    .await?;
                println!("node/{name} restored");
            }
        }
    }
    Ok(())
}
