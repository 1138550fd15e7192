//! `flotilla backup` and `flotilla restore`: the desired state as a file.

use std::collections::BTreeMap;
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
use flotilla_core::spec::{Resource, Sha256Digest};
use flotilla_identity::keys::KeyRecord;

use flotilla_identity::authority::AuthorityRecord;
use flotilla_identity::enrolment::Enrolment;

use crate::args::{BackupArgs, RestoreArgs};
use crate::backup_documents::{self, ArtifactDocument, Backup, BackupDocument, FleetDocument};
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
    let identity: FleetIdentity = fleet.get(&FLEET_PATH).await?;
    let documents = fetch_documents(&fleet, &identity).await?;
    let is_resource = |document: &&BackupDocument| {
        !matches!(
            document,
            BackupDocument::Fleet(_) | BackupDocument::Authority(_) | BackupDocument::Enrolment(_)
        )
    };
    let resources = documents.iter().filter(is_resource).count();
    if identity.id.is_none() {
        fleet.print_readiness_notes().await;
    }
    if resources == 0 && identity.id.is_none() {
        bail!(
            "the store has no fleet, and nothing is known of an earlier one: no backup is written"
        );
    }
    let text = backup_documents::text(&documents)?;
    match &args.file {
        None => std::io::stdout().write_all(text.as_bytes())?,
        Some(file) => {
            // A failed backup does not destroy an older one.
            flotilla_durable::replace_with_umask(file, text.as_bytes())
                .with_context(|| format!("cannot write {}", file.display()))?;
            println!(
                "{} written to {}",
                counted(resources, "resource"),
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
async fn fetch_documents(
    fleet: &FleetClient,
    identity: &FleetIdentity,
) -> anyhow::Result<Vec<BackupDocument>> {
    let mut documents = Vec::new();
    let id = identity.id.clone().or_else(|| identity.lost_id.clone());
    documents.extend(id.map(|id| BackupDocument::fleet(id, identity.epoch)));
    // Before all else: whoever restores without the fleet's secret learns it at once.
    let authority: Option<AuthorityRecord> = fleet.get(&["api", "v1", "authority"]).await?;
    documents.extend(authority.map(BackupDocument::authority));
    let enrolments: BTreeMap<String, Enrolment> = fleet.get(&["api", "v1", "enrolments"]).await?;
    let enrolments = enrolments.into_iter();
    documents
        .extend(enrolments.map(|(name, enrolment)| BackupDocument::enrolment(name, enrolment)));
    let artifacts: Vec<(String, Manifest)> = fleet.get(&["api", "v1", "manifests"]).await?;
    let artifacts = artifacts.into_iter();
    documents.extend(artifacts.map(|(name, files)| BackupDocument::artifact(name, files)));
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
    let keys: ListResponse<KeyRecord> = fleet.get(&["api", "v1", "keys"]).await?;
    let keys = keys.items.into_iter();
    documents.extend(keys.map(BackupDocument::key));
    documents.extend(
        nodes_with_operation
            .map(|node| BackupDocument::node_operation(node.metadata.name, node.status.operation)),
    );
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
    let backup = backup_documents::parse(content).context(name)?;
    for entry in &backup.unreadable {
        eprintln!("left out, since this version cannot read it: {entry}");
    }
    let folder = backup_files::folder_of(&args.file);
    let mut incomplete = Vec::new();
    for document in &backup.documents {
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
    restore_identity(&fleet, &backup).await?;
    wait_for_files(&fleet, &incomplete, args.timeout).await?;
    // The nodes of an earlier fleet are refused until they are moved.
    fleet.print_readiness_notes().await;
    if !backup.unreadable.is_empty() {
        bail!(
            "the restore is not complete: run it with the version that wrote the file, since this one cannot read {}",
            backup.unreadable.join(", ")
        );
    }
    Ok(())
}

/// Gives the fleet the id that it had when the backup was made, so that its nodes obey it again. A fleet that
/// has nodes of its own keeps its id.
async fn restore_identity(fleet: &FleetClient, backup: &Backup) -> anyhow::Result<()> {
    let in_backup = backup.documents.iter().find_map(|document| match document {
        BackupDocument::Fleet(FleetDocument { metadata, spec, .. }) => Some(NewFleetId {
            id: metadata.name.clone(),
            epoch: spec.epoch,
        }),
        _ => None,
    });
    let current: FleetIdentity = fleet.get(&FLEET_PATH).await?;
    // An older backup, or a file of resources alone, does not have it.
    let lost = current.lost_id.filter(|_| current.id.is_none());
    let lost = lost.map(|id| NewFleetId { id, epoch: 0 });
    let Some(new) = in_backup.or(lost) else {
        return Ok(());
    };
    match current.id {
        Some(id) if id == new.id => {}
        Some(id) if current.has_nodes => println!(
            "the fleet keeps its id {id}: nodes of the fleet {} obey it once their agents are started with --adopt-fleet {id}",
            new.id
        ),
        _ => {
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
        BackupDocument::Authority(authority) => {
            let path = ["api", "v1", "authority"];
            fleet.put_ignoring_response(&path, &authority.spec).await?;
            println!("authority/{} restored", authority.metadata.name);
        }
        BackupDocument::Enrolment(enrolment) => {
            let name = enrolment.metadata.name.as_str();
            let path = ["api", "v1", "enrolments", name];
            fleet.put_ignoring_response(&path, &enrolment.spec).await?;
            println!("enrolment/{name} restored");
        }
        BackupDocument::Resource(resource) => {
            let (noun, path) = manifest::noun_and_path(resource);
            fleet.put_ignoring_response(&path, resource).await?;
            println!("{noun}/{} restored", resource.name());
        }
        BackupDocument::Key(key) => {
            let path = ["api", "v1", "keys", key.spec.id.as_str()];
            fleet.put_ignoring_response(&path, &key.spec).await?;
            println!("key/{} restored", key.spec.name);
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
