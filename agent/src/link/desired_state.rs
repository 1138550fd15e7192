//! Receives the node's desired state: the newest one of any controller counts.

use std::sync::Arc;

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{Model, Resource};
use flotilla_core::{ModelName, ModelRevision, StoreRevision};
use flotilla_proto::convert::ConvertError;
use flotilla_proto::v1;
use tokio::sync::{Mutex, watch};

use crate::data_dir::{DataDir, NodeDesiredState};
use crate::models::DesiredModel;

/// Receives desired states from all controllers, stores the newest and passes it on.
pub(crate) struct DesiredStateReceiver {
    data_dir: Arc<DataDir>,
    /// The newest desired state.
    current: Mutex<NodeDesiredState>,
    models: watch::Sender<Vec<DesiredModel>>,
}

impl DesiredStateReceiver {
    /// Starts with the state stored in `data_dir`. The returned receiver has the models that the node
    /// should run.
    pub(crate) fn new(data_dir: DataDir) -> (Self, watch::Receiver<Vec<DesiredModel>>) {
        let current = data_dir.load_desired_state();
        let (models, models_receiver) = watch::channel(current.models.clone());
        let receiver = Self {
            data_dir: Arc::new(data_dir),
            current: Mutex::new(current),
            models,
        };
        (receiver, models_receiver)
    }

    /// Stores the state for the next start. Flushing it to the disk may take long, so it runs on a
    /// thread for blocking work.
    async fn store(&self, state: NodeDesiredState) {
        let data_dir = self.data_dir.clone();
        let store = tokio::task::spawn_blocking(move || data_dir.store_desired_state(&state));
        if let Ok(Err(error)) = store.await {
            tracing::warn!(%error, "cannot store the desired state for the next start");
        }
    }

    /// Applies a desired state from a controller, unless it is older than the current one. The state
    /// of a fleet with another id always counts, because its revisions cannot be compared.
    pub(super) async fn receive(&self, message: v1::DesiredState) {
        let mut current = self.current.lock().await;
        let revision = StoreRevision(message.store_revision);
        if message.fleet_id == current.fleet && revision < current.revision {
            tracing::debug!(%revision, current = %current.revision, "ignoring an old desired state");
            return;
        }
        let state = NodeDesiredState {
            fleet: message.fleet_id,
            revision,
            models: message
                .models
                .into_iter()
                .filter_map(convert_or_log)
                .collect(),
        };
        if *current == state {
            return;
        }
        self.store(state.clone()).await;
        self.models.send_replace(state.models.clone());
        *current = state;
    }
}

/// Converts a model. An invalid model is logged and left out: the controller sees that it never becomes
/// ready.
fn convert_or_log(message: v1::DesiredModel) -> Option<DesiredModel> {
    let model = message.name.clone();
    convert(message)
        .inspect_err(|error| {
            tracing::error!(
                model,
                error,
                "a controller sent an invalid model: it is left out"
            );
        })
        .ok()
}

fn convert(message: v1::DesiredModel) -> Result<DesiredModel, String> {
    let name = ModelName::new(&message.name).map_err(|error| error.to_string())?;
    let model = match message.resource_json.as_str() {
        "" => None,
        json => {
            let json = serde_json::from_str(json).map_err(|error| error.to_string())?;
            let model = Resource::from_json(json).and_then(Model::try_from);
            Some(model.map_err(|error| error.to_string())?)
        }
    };
    let files = message.files.into_iter().map(TryInto::try_into);
    let files: Vec<_> = files
        .collect::<Result<_, ConvertError>>()
        .map_err(|error| error.to_string())?;
    let files = if files.is_empty() {
        None
    } else {
        Some(Manifest::new(files).map_err(|error| error.to_string())?)
    };
    Ok(DesiredModel {
        name,
        revision: ModelRevision(message.revision),
        model,
        files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fleet: &str, revision: u64, model: &str) -> v1::DesiredState {
        v1::DesiredState {
            fleet_id: fleet.into(),
            store_revision: revision,
            models: vec![v1::DesiredModel {
                name: model.into(),
                revision: 1,
                ..Default::default()
            }],
            ..v1::DesiredState::default()
        }
    }

    #[tokio::test]
    async fn the_newest_desired_state_counts_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let names = |models: &watch::Receiver<Vec<DesiredModel>>| -> Vec<String> {
            let models = models.borrow();
            models.iter().map(|model| model.name.to_string()).collect()
        };
        let (receiver, models) = DesiredStateReceiver::new(DataDir::open(dir.path()).unwrap());
        receiver.receive(message("f", 5, "five")).await;
        receiver.receive(message("f", 4, "four")).await;
        assert_eq!(names(&models), ["five"]);
        drop((receiver, models));
        let (receiver, models) = DesiredStateReceiver::new(DataDir::open(dir.path()).unwrap());
        receiver.receive(message("f", 4, "four")).await;
        assert_eq!(names(&models), ["five"]);
        receiver.receive(message("f", 6, "six")).await;
        assert_eq!(names(&models), ["six"]);
        receiver.receive(message("other", 1, "one")).await;
        assert_eq!(names(&models), ["one"]);
        receiver.receive(message("other", 2, "NO NAME")).await;
        assert!(names(&models).is_empty());
    }
}
