//! The agent's data directory: a lock, the node's identity and the last desired state.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{Model, Resource};
use flotilla_core::{ModelName, ModelRevision, StateVersion, StoreRevision};
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::models::DesiredModel;

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The directory or a file in it cannot be created, read or written.
    #[error("cannot use the data directory {path}: {error}")]
    Io {
        /// The data directory.
        path: PathBuf,
        /// What went wrong.
        error: io::Error,
    },
    /// Another agent has locked the directory.
    #[error(
        "the data directory {0} is in use by another agent: stop it, or use another --data-dir"
    )]
    InUse(PathBuf),
}

/// The open data directory, locked until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    identity: String,
    _lock: File,
}

/// The models that this node should run, with the fleet and the version of that desired state.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodeDesiredState {
    /// The id of the fleet that the node belongs to. Empty before the first desired state.
    pub(crate) fleet: String,
    pub(crate) version: StateVersion,
    pub(crate) models: Vec<DesiredModel>,
}

/// [`NodeDesiredState`] as a file.
#[derive(Default, Serialize, Deserialize)]
struct StoredNodeState {
    fleet: String,
    #[serde(default)]
    epoch: u64,
    revision: StoreRevision,
    models: Vec<StoredModel>,
}

#[derive(Serialize, Deserialize)]
struct StoredModel {
    name: ModelName,
    revision: ModelRevision,
    resource: Option<serde_json::Value>,
    #[serde(default)]
    files: Option<Manifest>,
}

impl DataDir {
    /// Opens and locks the directory, creating it if missing.
    ///
    /// # Errors
    /// [`DataDirError`] if the directory cannot be used or another agent uses it.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let io_error = |error| DataDirError::Io {
            path: path.to_owned(),
            error,
        };
        fs::create_dir_all(path).map_err(io_error)?;
        let lock = File::create(path.join("lock")).map_err(io_error)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => DataDirError::InUse(path.to_owned()),
            TryLockError::Error(error) => io_error(error),
        })?;
        let identity = read_or_create_identity(&path.join("identity")).map_err(io_error)?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            _lock: lock,
        })
    }

    /// Converts an I/O error in the directory.
    pub(crate) fn error(&self, error: io::Error) -> DataDirError {
        DataDirError::Io {
            path: self.path.clone(),
            error,
        }
    }

    /// A random text that distinguishes this node from another node of the same name.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Loads the last stored desired state. A missing one counts as empty. An unreadable one has no models
    /// either, because a controller will send it again, but the node still belongs to its fleet.
    pub(crate) fn load_desired_state(&self) -> NodeDesiredState {
        let Ok(json) = fs::read(self.desired_state_file()) else {
            return NodeDesiredState::default();
        };
        let stored: StoredNodeState = serde_json::from_slice(&json).unwrap_or_else(|error| {
            tracing::error!(%error, "the stored desired state is damaged: the models wait for a controller");
            StoredNodeState {
                fleet: fs::read_to_string(self.fleet_file()).unwrap_or_default(),
                ..StoredNodeState::default()
            }
        });
        let models = stored.models.into_iter().filter_map(|stored| {
            let model = match stored.resource {
                None => None,
                Some(resource) => {
                    let model = Resource::from_json(resource).and_then(Model::try_from);
                    Some(model.ok()?)
                }
            };
            Some(DesiredModel {
                name: stored.name,
                revision: stored.revision,
                model,
                files: stored.files,
            })
        });
        NodeDesiredState {
            fleet: stored.fleet,
            version: StateVersion {
                epoch: stored.epoch,
                revision: stored.revision,
            },
            models: models.collect(),
        }
    }

    /// Stores the desired state for the next start.
    pub(crate) fn store_desired_state(&self, state: &NodeDesiredState) -> io::Result<()> {
        let models = state.models.iter().map(|desired| {
            let resource = desired.model.as_ref().map(serde_json::to_value);
            Ok(StoredModel {
                name: desired.name.clone(),
                revision: desired.revision,
                resource: resource.transpose()?,
                files: desired.files.clone(),
            })
        });
        let stored = StoredNodeState {
            fleet: state.fleet.clone(),
            epoch: state.version.epoch,
            revision: state.version.revision,
            models: models.collect::<Result<_, serde_json::Error>>()?,
        };
        if fs::read_to_string(self.fleet_file()).ok().as_ref() != Some(&state.fleet) {
            write_atomically(&self.fleet_file(), state.fleet.as_bytes())?;
        }
        write_atomically(&self.desired_state_file(), &serde_json::to_vec(&stored)?)
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
    let identity = format!("{:032x}", fastrand::u128(..));
    write_atomically(file, identity.as_bytes())?;
    Ok(identity)
}

/// Replaces a file as a whole: after a crash or a power failure it has the old or the new content.
pub(crate) fn write_atomically(file: &Path, content: &[u8]) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut new = NamedTempFile::new_in(folder)?;
    new.write_all(content)?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    sync_dir(folder)
}

/// Makes the names of new files in a directory survive a power failure.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::{EngineKind, Model, ModelSpec};

    #[test]
    fn identity_and_desired_state_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        let spec = ModelSpec {
            engine: EngineKind::Simulated,
            ..ModelSpec::default()
        };
        let name = ModelName::new("m").unwrap();
        let state = NodeDesiredState {
            fleet: "f".into(),
            version: StateVersion {
                epoch: 2,
                revision: StoreRevision(9),
            },
            models: vec![DesiredModel {
                name: name.clone(),
                revision: ModelRevision(3),
                model: Some(Model::new(name, spec)),
                files: None,
            }],
        };
        data_dir.store_desired_state(&state).unwrap();
        let identity = data_dir.identity().to_owned();
        drop(data_dir);
        let data_dir = DataDir::open(dir.path()).unwrap();
        assert_eq!(data_dir.identity(), identity);
        assert_eq!(data_dir.load_desired_state(), state);
    }

    #[test]
    fn a_second_agent_cannot_use_the_same_directory() {
        let dir = tempfile::tempdir().unwrap();
        let _data_dir = DataDir::open(dir.path()).unwrap();
        assert!(matches!(
            DataDir::open(dir.path()),
            Err(DataDirError::InUse(_))
        ));
    }

    #[test]
    fn a_node_with_an_unreadable_desired_state_still_belongs_to_its_fleet() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path()).unwrap();
        let state = NodeDesiredState {
            fleet: "f".into(),
            ..NodeDesiredState::default()
        };
        data_dir.store_desired_state(&state).unwrap();
        fs::write(data_dir.desired_state_file(), "nonsense").unwrap();
        assert_eq!(data_dir.load_desired_state(), state);
    }
}
