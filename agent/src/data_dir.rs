//! The agent's data directory: a lock, the node's identity and what it should run.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{Model, Resource};
use flotilla_core::{ModelName, ModelRevision, StoreRevision};
use serde::{Deserialize, Serialize};

use crate::models::DesiredModel;

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("the data directory {path} cannot be used: {problem}")]
    Directory { path: PathBuf, problem: io::Error },
    #[error(
        "the data directory {0} is in use by another agent: stop it, or use another --data-dir"
    )]
    InUse(PathBuf),
}

/// The open data directory. Locked until dropped.
#[derive(Debug)]
pub(crate) struct DataDir {
    dir: PathBuf,
    identity: String,
    _lock: File,
}

/// What the node was told to run, and by which point of which fleet's history.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodeDesiredState {
    pub(crate) fleet: String,
    pub(crate) revision: StoreRevision,
    pub(crate) models: Vec<DesiredModel>,
}

#[derive(Default, Serialize, Deserialize)]
struct StoredState {
    fleet: String,
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
    /// Opens the directory, creating it where missing.
    pub(crate) fn open(dir: &Path) -> Result<Self, DataDirError> {
        let directory = |problem| DataDirError::Directory {
            path: dir.to_owned(),
            problem,
        };
        fs::create_dir_all(dir).map_err(directory)?;
        let lock = File::create(dir.join("lock")).map_err(directory)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => DataDirError::InUse(dir.to_owned()),
            TryLockError::Error(error) => directory(error),
        })?;
        let file = dir.join("identity");
        let identity = match fs::read_to_string(&file) {
            Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
            Ok(_) => new_identity(&file).map_err(directory)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                new_identity(&file).map_err(directory)?
            }
            Err(error) => return Err(directory(error)),
        };
        Ok(Self {
            dir: dir.to_owned(),
            identity,
            _lock: lock,
        })
    }

    /// Tells this node from another one of the same name.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// What the node was told to run last. What cannot be read counts as nothing: a
    /// controller will tell again.
    pub(crate) fn order(&self) -> NodeDesiredState {
        let Ok(text) = fs::read(self.desired_file()) else {
            return NodeDesiredState::default();
        };
        let kept: StoredState = serde_json::from_slice(&text).unwrap_or_default();
        let models = kept.models.into_iter().filter_map(|kept| {
            let model = match kept.resource {
                None => None,
                Some(resource) => {
                    let model = Resource::from_json(resource).and_then(Model::try_from);
                    Some(model.ok()?)
                }
            };
            Some(DesiredModel {
                name: kept.name,
                revision: kept.revision,
                model,
                files: kept.files,
            })
        });
        NodeDesiredState {
            fleet: kept.fleet,
            revision: kept.revision,
            models: models.collect(),
        }
    }

    /// Keeps what the node should run, whole or not at all.
    pub(crate) fn keep(&self, order: &NodeDesiredState) -> io::Result<()> {
        let models = order.models.iter().map(|desired| {
            let resource = desired.model.as_ref().map(serde_json::to_value);
            Ok(StoredModel {
                name: desired.name.clone(),
                revision: desired.revision,
                resource: resource.transpose()?,
                files: desired.files.clone(),
            })
        });
        let kept = StoredState {
            fleet: order.fleet.clone(),
            revision: order.revision,
            models: models.collect::<Result<_, serde_json::Error>>()?,
        };
        let file = self.desired_file();
        let new = file.with_extension("new");
        fs::write(&new, serde_json::to_vec(&kept)?)?;
        fs::rename(new, file)
    }

    fn desired_file(&self) -> PathBuf {
        self.dir.join("desired.json")
    }
}

fn new_identity(file: &Path) -> io::Result<String> {
    let identity = format!("{:032x}", fastrand::u128(..));
    fs::write(file, &identity)?;
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::{EngineKind, Model, ModelSpec};

    #[test]
    fn identity_and_wish_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let home = DataDir::open(dir.path()).unwrap();
        let spec = ModelSpec {
            engine: EngineKind::Simulated,
            ..ModelSpec::default()
        };
        let name = ModelName::new("m").unwrap();
        let order = NodeDesiredState {
            fleet: "f".into(),
            revision: StoreRevision(9),
            models: vec![DesiredModel {
                name: name.clone(),
                revision: ModelRevision(3),
                model: Some(Model::new(name, spec)),
                files: None,
            }],
        };
        home.keep(&order).unwrap();
        let identity = home.identity().to_owned();
        drop(home);
        let home = DataDir::open(dir.path()).unwrap();
        assert_eq!(home.identity(), identity);
        assert_eq!(home.order(), order);
    }

    #[test]
    fn a_second_agent_is_told_that_the_directory_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let _home = DataDir::open(dir.path()).unwrap();
        assert!(matches!(
            DataDir::open(dir.path()),
            Err(DataDirError::InUse(_))
        ));
    }

    #[test]
    fn a_broken_wish_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let home = DataDir::open(dir.path()).unwrap();
        fs::write(home.desired_file(), "nonsense").unwrap();
        assert_eq!(home.order(), NodeDesiredState::default());
    }
}
