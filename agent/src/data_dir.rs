//! The agent's data directory: a lock, the node's identity and the last desired state.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{Model, Resource};
use flotilla_core::{ModelName, ModelRevision, StateVersion, StoreRevision};
use flotilla_durable::{DirError, DirLock};
use flotilla_identity::random_id;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::models::DesiredModel;

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The directory cannot be written, or another process uses it.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// A file that says which fleet the node belongs to cannot be read.
    #[error(
        "cannot read {path}, which says to which fleet this node belongs: {error}: check the disk and the file's permissions"
    )]
    FleetFile {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// The node belongs to a fleet, but the files that say to which one are damaged.
    #[error(
        "the files 'fleet' and 'desired.json' in {0} do not say to which fleet this node belongs: start its agent with --adopt-fleet and the fleet's id"
    )]
    UnknownFleet(PathBuf),
}

/// The open data directory, locked until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    identity: String,
    _lock: DirLock,
}

/// The models that this node should run, with the fleet and the version of that desired state.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodeDesiredState {
    /// The id of the fleet that the node belongs to. Empty before the first desired state.
    pub(crate) fleet: String,
    pub(crate) version: StateVersion,
    /// `None`: not known, since the node never received them or has lost them.
    pub(crate) models: Option<Vec<SentModel>>,
}

/// [`NodeDesiredState`] as a file.
#[derive(Default, Serialize, Deserialize)]
struct StoredNodeState {
    fleet: String,
    #[serde(default)]
    epoch: u64,
    revision: StoreRevision,
    #[serde(default)]
    models: Option<Vec<SentModel>>,
}

/// A model that this node should run, as a controller sent it. Another version may have written its
/// resource, which is therefore stored as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SentModel {
    pub(crate) name: ModelName,
    pub(crate) revision: ModelRevision,
    pub(crate) resource: Option<Value>,
    #[serde(default)]
    pub(crate) files: Option<Manifest>,
}

impl SentModel {
    /// Reads the resource. One that this version cannot read is logged and left out: what runs of the model
    /// goes on, and its files are kept.
    pub(crate) fn read(&self) -> DesiredModel {
        let model = self.resource.clone().and_then(|resource| {
            let (resource, unknown) = Resource::from_stored_json(resource)
                .inspect_err(|error| self.log_unreadable(error))
                .ok()?;
            if !unknown.is_empty() {
                tracing::warn!(
                    model = %self.name, fields = ?unknown,
                    "the model has fields that this version does not know: they are ignored"
                );
            }
            let model = Model::try_from(resource);
            model.inspect_err(|error| self.log_unreadable(error)).ok()
        });
        DesiredModel {
            name: self.name.clone(),
            revision: self.revision,
            model,
            files: self.files.clone(),
            is_held: false,
        }
    }

    fn log_unreadable(&self, error: &dyn std::fmt::Display) {
        tracing::error!(
            model = %self.name, %error,
            "this version cannot read the model: it is not started, what runs of it goes on, and its files are kept"
        );
    }
}

impl DataDir {
    /// Opens and locks the directory, creating it if missing.
    ///
    /// # Errors
    /// [`DataDirError`] if the directory cannot be used or another process uses it.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let lock = DirLock::acquire(path)?;
        let identity = read_or_create_identity(&path.join("identity"));
        let identity = identity.map_err(|error| DirError::Unusable {
            path: path.to_owned(),
            error,
        })?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            _lock: lock,
        })
    }

    /// A random text that distinguishes this node from another node of the same name.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Loads the last stored desired state. One that is missing or damaged has no known models, because a
    /// controller will send it again, but the node still belongs to its fleet. Only a node with neither
    /// file belongs to none.
    ///
    /// # Errors
    /// [`DataDirError`] if a file cannot be read, or if both do not say which fleet it is.
    pub(crate) fn load_desired_state(&self) -> Result<NodeDesiredState, DataDirError> {
        let json = read_if_there(&self.desired_state_file())?;
        let fleet = read_if_there(&self.fleet_file())?;
        let is_new = json.is_none() && fleet.is_none();
        let fleet = fleet.unwrap_or_default();
        let fleet = String::from_utf8_lossy(&fleet).trim().to_owned();
        let stored = json.map(|json| serde_json::from_slice::<StoredNodeState>(&json));
        let stored = match stored {
            Some(Ok(stored)) => stored,
            Some(Err(error)) => {
                tracing::error!(%error, "the stored desired state is damaged: the models wait for a controller");
                StoredNodeState::default()
            }
            None => StoredNodeState::default(),
        };
        let fleet = if stored.fleet.is_empty() {
            fleet
        } else {
            stored.fleet
        };
        if fleet.is_empty() && !is_new {
            return Err(DataDirError::UnknownFleet(self.path.clone()));
        }
        Ok(NodeDesiredState {
            fleet,
            version: StateVersion {
                epoch: stored.epoch,
                revision: stored.revision,
            },
            models: stored.models,
        })
    }

    /// Stores the desired state for the next start.
    pub(crate) fn store_desired_state(&self, state: &NodeDesiredState) -> io::Result<()> {
        let stored = StoredNodeState {
            fleet: state.fleet.clone(),
            epoch: state.version.epoch,
            revision: state.version.revision,
            models: state.models.clone(),
        };
        if fs::read_to_string(self.fleet_file()).ok().as_ref() != Some(&state.fleet) {
            flotilla_durable::replace(&self.fleet_file(), state.fleet.as_bytes())?;
        }
        flotilla_durable::replace(&self.desired_state_file(), &serde_json::to_vec(&stored)?)
    }

    /// The file with the fleet's id alone.
    fn fleet_file(&self) -> PathBuf {
        self.path.join("fleet")
    }

    fn desired_state_file(&self) -> PathBuf {
        self.path.join("desired.json")
    }
}

/// Reads the identity, or creates one if there is none.
fn read_or_create_identity(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let identity = random_id();
    flotilla_durable::replace(file, identity.as_bytes())?;
    Ok(identity)
}

/// Reads a file that says which fleet the node belongs to. `None`: there is none.
fn read_if_there(file: &Path) -> Result<Option<Vec<u8>>, DataDirError> {
    match fs::read(file) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DataDirError::FleetFile {
            path: file.to_owned(),
            error,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::{EngineKind, Model, ModelSpec};

    fn state(resource: Value) -> NodeDesiredState {
        NodeDesiredState {
            fleet: "f".into(),
            version: StateVersion {
                epoch: 2,
                revision: StoreRevision(9),
            },
            models: Some(vec![SentModel {
                name: ModelName::new("m").unwrap(),
                revision: ModelRevision(3),
                resource: Some(resource),
                files: Some(Manifest::default()),
            }]),
        }
    }

    fn resource() -> Value {
        let spec = ModelSpec {
            engine: EngineKind::Simulated,
            ..ModelSpec::default()
        };
        let model = Model::new(ModelName::new("m").unwrap(), spec);
        serde_json::to_value(model).unwrap()
    }

    #[test]
    fn identity_and_desired_state_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        let state = state(resource());
        data_dir.store_desired_state(&state).unwrap();
        let identity = data_dir.identity().to_owned();
        drop(data_dir);
        let data_dir = DataDir::open(dir.path()).unwrap();
        assert_eq!(data_dir.identity(), identity);
        let loaded = data_dir.load_desired_state().unwrap();
        assert_eq!(loaded, state);
        assert!(loaded.models.unwrap()[0].read().model.is_some());
    }

    #[test]
    fn what_another_version_wrote_stays_on_the_disk_and_loses_no_model() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        let mut later = resource();
        later["spec"]["laterField"] = 1.into();
        let mut strange = resource();
        strange["spec"]["engine"] = "of a later version".into();
        for (resource, is_readable) in [(later, true), (strange, false)] {
            let state = state(resource);
            data_dir.store_desired_state(&state).unwrap();
            let loaded = data_dir.load_desired_state().unwrap();
            assert_eq!(loaded, state);
            let model = loaded.models.unwrap()[0].read();
            assert_eq!(model.model.is_some(), is_readable);
            assert!(model.files.is_some());
        }
    }

    #[test]
    fn a_second_agent_cannot_use_the_same_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _data_dir = DataDir::open(dir.path()).unwrap();
        assert!(matches!(
            DataDir::open(dir.path()),
            Err(DataDirError::Dir(DirError::InUse(_)))
        ));
    }

    #[test]
    fn a_node_without_a_readable_desired_state_still_belongs_to_its_fleet() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        let new = data_dir.load_desired_state().unwrap();
        assert_eq!(new, NodeDesiredState::default());
        data_dir.store_desired_state(&state(resource())).unwrap();
        let lost = NodeDesiredState {
            fleet: "f".into(),
            ..NodeDesiredState::default()
        };
        fs::write(data_dir.desired_state_file(), "nonsense").unwrap();
        assert_eq!(data_dir.load_desired_state().unwrap(), lost);
        fs::remove_file(data_dir.desired_state_file()).unwrap();
        assert_eq!(data_dir.load_desired_state().unwrap(), lost);
        // Nothing is made up of what is not known.
        data_dir.store_desired_state(&lost).unwrap();
        assert_eq!(data_dir.load_desired_state().unwrap(), lost);
    }

    #[test]
    fn a_node_whose_fleet_cannot_be_read_does_not_start() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        fs::write(data_dir.desired_state_file(), "nonsense").unwrap();
        let damaged = data_dir.load_desired_state();
        assert!(matches!(damaged, Err(DataDirError::UnknownFleet(_))));
        // A directory in the place of a file cannot be read by anybody.
        fs::remove_file(data_dir.desired_state_file()).unwrap();
        fs::create_dir(data_dir.desired_state_file()).unwrap();
        fs::write(data_dir.fleet_file(), "f").unwrap();
        let unreadable = data_dir.load_desired_state();
        assert!(matches!(unreadable, Err(DataDirError::FleetFile { .. })));
    }
}
