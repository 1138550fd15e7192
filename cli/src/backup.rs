//! `flotilla backup` and `flotilla restore`: the desired state as a file.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use flotilla_controller::admin::{
    FleetIdentity, MissingFiles, ModelResource, NewFleetId, NodeResource, RouterResource,
    TaskResource,
};
use flotilla_controller::fleet::NodeOperationRecord;
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{API_VERSION, Resource, Sha256Digest};

use crate::args::{BackupArgs, RestoreArgs};
use crate::backup_documents::{
    self, ArtifactDocument, ArtifactKind, BackupDocument, DocumentMetadata, FleetDocument,
    FleetKind, NodeOperationDocument, NodeOperationKind,
};
use crate::backup_files::{self, MissingFileList};
use crate::client::{FleetClient, ListResponse, read_json};
use crate::manifest;
use crate::resource_text::counted;

/// Interval at which missing files are asked for again.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The path of the fleet's identity.
const FLEET_PATH: [&str; 3] = ["api", "v1", "fleet"];

/// Writes the desired state to a file or to standard output.
pub(crate) async fn backup(args: BackupArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let documents = fetch_documents(&fleet).await?;
    let text = backup_documents::text(&documents)?;
    match &args.file {
        None => std::io::stdout().write_all(text.as_bytes())?,
        Some(file) => {
            // Renamed once complete: a failed backup must not destroy an older one.
            let temporary = file.with_extension("new");
            write_synced(&temporary, &text)
                .and_then(|()| std::fs::rename(&temporary, file))
                .with_context(|| format!("cannot write {}", file.display()))?;
            let is_resource =
                |document: &&BackupDocument| !matches!(document, BackupDocument::Fleet(_));
            println!(
                "{} written to {}",
                counted(documents.iter().filter(is_resource).count(), "resource"),
                file.display()
            );
        }
    }
    if args.with_files
        && let Some(file) = &args.file
    {
        save_files(&fleet, &documents, file).await?;
    }
    Ok(())
}

/// Writes a file, and waits until the disk has its content: a rename may reach the disk first.
fn write_synced(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Saves the files of all artifacts beside the backup.
///
/// # Errors
/// Returns an error that lists the files that the fleet does not have.
async fn save_files(
    fleet: &FleetClient,
    documents: &[BackupDocument],
    file: &Path,
) -> anyhow::Result<()> {
    let folder = backup_files::folder_of(file);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let mut missing = MissingFileList::default();
    for document in documents {
        if let BackupDocument::Artifact(artifact) = document {
            let manifest = &artifact.spec;
            let not_found = backup_files::download(fleet, manifest, &folder).await?;
            missing.add(&artifact.metadata.name, manifest, &not_found);
        }
    }
    if !missing.is_empty() {
        bail!(
            "the backup is not complete: this controller does not have {} of artifacts: {}",
            counted(missing.len(), "file"),
            missing.text()
        );
    }
    println!("the files of artifacts are in {}", folder.display());
    Ok(())
}

/// Fetches the desired state. Artifacts come first, since models refer to them.
async fn fetch_documents(fleet: &FleetClient) -> anyhow::Result<Vec<BackupDocument>> {
    let mut documents = Vec::new();
    let FleetIdentity { id, lost_id, .. } = fleet.get(&FLEET_PATH).await?;
    documents.extend(id.or(lost_id).map(|name| {
        BackupDocument::Fleet(FleetDocument {
            api_version: API_VERSION.into(),
            kind: FleetKind::Fleet,
            metadata: DocumentMetadata { name },
        })
    }));
    let artifacts: Vec<(String, Manifest)> = fleet.get(&["api", "v1", "manifests"]).await?;
    documents.extend(artifacts.into_iter().map(|(name, spec)| {
        BackupDocument::Artifact(ArtifactDocument {
            api_version: API_VERSION.into(),
            kind: ArtifactKind::Artifact,
            metadata: DocumentMetadata { name },
            spec,
        })
    }));
    let models: ListResponse<ModelResource> = fleet.get(&["api", "v1", "models"]).await?;
    let models = models
        .items
        .into_iter()
        .map(|model| Resource::Model(model.model));
    let tasks: ListResponse<TaskResource> = fleet.get(&["api", "v1", "tasks"]).await?;
    let tasks = tasks
        .items
        .into_iter()
        .map(|task| Resource::Task(task.task));
    let routers: ListResponse<RouterResource> = fleet.get(&["api", "v1", "routers"]).await?;
    let routers = routers
        .items
        .into_iter()
        .map(|router| Resource::Router(router.router));
    let resources = models.chain(tasks).chain(routers);
    documents.extend(resources.map(|resource| BackupDocument::Resource(Box::new(resource))));
    let nodes: ListResponse<NodeResource> = fleet.get(&["api", "v1", "nodes"]).await?;
    let nodes_with_operation = nodes
        .items
        .into_iter()
        .filter(|node| node.status.operation != NodeOperationRecord::default());
    documents.extend(nodes_with_operation.map(|node| {
        BackupDocument::NodeOperation(NodeOperationDocument {
            api_version: API_VERSION.into(),
            kind: NodeOperationKind::NodeOperation,
            metadata: DocumentMetadata {
                name: node.metadata.name,
            },
            spec: node.status.operation,
        })
    }));
    Ok(documents)
}

/// Applies the resources of a backup. Resources that it does not contain are left as they are.
pub(crate) async fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let name = args.file.display().to_string();
    if args.file.is_dir() {
        bail!(
            "{name} is a folder: restore takes the file that `flotilla backup --file FILE` wrote, and looks for the folder FILE.files itself"
        );
    }
    let content = std::fs::read(&args.file).with_context(|| format!("cannot read {name}"))?;
    // The whole file is parsed before anything is changed.
    let documents = backup_documents::parse(content).context(name)?;
    let folder = backup_files::folder_of(&args.file);
    let before: FleetIdentity = fleet.get(&FLEET_PATH).await?;
    let mut incomplete = Vec::new();
    for document in &documents {
        if let BackupDocument::Artifact(artifact) = document {
            let is_complete = restore_artifact(&fleet, artifact, &folder).await?;
            if !is_complete {
                incomplete.push(artifact);
            }
        } else {
            restore_document(&fleet, document).await?;
        }
    }
    // Once the desired state is there, and before nodes are asked for files.
    restore_identity(&fleet, &documents, &before).await?;
    wait_for_files(&fleet, &incomplete, args.timeout).await?;
    // The nodes of an earlier fleet are refused until they are moved.
    fleet.print_readiness_notes().await;
    Ok(())
}

/// Gives the fleet the id that it had when the backup was made, so that its nodes obey it again. A fleet that
/// had resources or nodes of its own before the restore, when its identity was `before`, keeps its id.
async fn restore_identity(
    fleet: &FleetClient,
    documents: &[BackupDocument],
    before: &FleetIdentity,
) -> anyhow::Result<()> {
    let in_backup = documents.iter().find_map(|document| match document {
        BackupDocument::Fleet(fleet) => Some(fleet.metadata.name.clone()),
        _ => None,
    });
    // An older backup, or a file of resources alone, does not have it.
    let Some(id) = in_backup.or_else(|| before.lost_id.clone()) else {
        return Ok(());
    };
    // A new fleet gets its id soon after its start.
    let FleetIdentity { id: current, .. } = fleet.get(&FLEET_PATH).await?;
    match current {
        Some(current) if current == id => {}
        Some(current) if !before.empty => println!(
            "the fleet keeps its id {current}: nodes of the fleet {id} obey it once their agents are started with --adopt-fleet {current}"
        ),
        replaces => {
            let new = NewFleetId { id, replaces };
            fleet.put_ignoring_response(&FLEET_PATH, &new).await?;
            println!("fleet/{} restored", new.id);
        }
    }
    Ok(())
}

/// Restores an artifact, and uploads its files as far as the fleet does not have them and the backup does.
/// Returns whether the fleet has all of them now.
async fn restore_artifact(
    fleet: &FleetClient,
    artifact: &ArtifactDocument,
    folder: &Path,
) -> anyhow::Result<bool> {
    let name = artifact.metadata.name.as_str();
    let path = ["api", "v1", "artifacts", name];
    // Controllers look for files of published artifacts on other controllers and on nodes.
    let published = fleet
        .put_with_query(&path, Some("allowMissing=true"), &artifact.spec)
        .await?;
    let MissingFiles { missing } = read_json(published).await?;
    backup_files::upload(fleet, &missing, folder).await?;
    let missing = missing_files(fleet, artifact).await?;
    if missing.is_empty() {
        println!("artifact/{name} restored");
    }
    Ok(missing.is_empty())
}

/// Returns the files of an artifact that this controller does not have.
async fn missing_files(
    fleet: &FleetClient,
    artifact: &ArtifactDocument,
) -> anyhow::Result<Vec<Sha256Digest>> {
    let path = ["api", "v1", "artifacts", artifact.metadata.name.as_str()];
    let response: MissingFiles = fleet.put(&path, &artifact.spec).await?;
    Ok(response.missing)
}

/// Waits until the fleet has the files of these artifacts, at most for `timeout`.
///
/// # Errors
/// Returns an error that lists the files that are still missing.
async fn wait_for_files(
    fleet: &FleetClient,
    incomplete: &[&ArtifactDocument],
    timeout: Duration,
) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut reported = 0;
    loop {
        let mut missing = MissingFileList::default();
        for artifact in incomplete {
            let files = missing_files(fleet, artifact).await?;
            missing.add(&artifact.metadata.name, &artifact.spec, &files);
        }
        if missing.is_empty() {
            for artifact in incomplete {
                println!("artifact/{} restored", artifact.metadata.name);
            }
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            bail!(
                "the restore is not complete: nobody has {} of artifacts: {}; run `flotilla model push DIR --name NAME` for these artifacts",
                counted(missing.len(), "file"),
                missing.text()
            );
        }
        if missing.len() != reported {
            reported = missing.len();
            println!(
                "waiting for {} that other controllers or nodes may have",
                counted(reported, "file")
            );
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Restores a document that is no artifact.
async fn restore_document(fleet: &FleetClient, document: &BackupDocument) -> anyhow::Result<()> {
    match document {
        BackupDocument::Artifact(_) | BackupDocument::Fleet(_) => {}
        BackupDocument::Resource(resource) => {
            let (noun, path) = manifest::noun_and_path(resource);
            fleet.put_ignoring_response(&path, resource).await?;
            println!("{noun}/{} restored", resource.name());
        }
        BackupDocument::NodeOperation(operation) => {
            let name = operation.metadata.name.as_str();
            let path = ["api", "v1", "nodes", name, "operation"];
            // The node may join after the restore.
            fleet
                .put_with_query(&path, Some("allowUnknown=true"), &operation.spec)
                .await?;
            println!("node/{name} restored");
        }
    }
    Ok(())
}
