//! Receives the node's desired state: the newest one of any controller of the node's fleet counts.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::artifact::Manifest;
use flotilla_core::{ModelName, ModelRevision, StateVersion, StoreRevision};
use flotilla_proto::convert::ConvertError;
use flotilla_proto::v1;
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use crate::data_dir::{DataDir, DataDirError, NodeDesiredState, SentModel};
use crate::models::{DesiredModel, DesiredModels};

/// For how long models are kept that the first desired states of an epoch do not name: the store was put back
/// or restored, and the leader may not have assigned what it found there.
const HOLD_TIME: Duration = Duration::from_secs(30);

/// Receives desired states from all controllers, stores the newest and passes it on.
pub(crate) struct DesiredStateReceiver {
    data_dir: Arc<DataDir>,
    current: Arc<Mutex<CurrentState>>,
    /// What the node follows: the fleet and the version of `current`, or the fleet that it is to move to
    /// while no controller of that one has sent a desired state.
    followed: parking_lot::Mutex<FollowedState>,
    models: watch::Sender<DesiredModels>,
}

/// The newest desired state.
struct CurrentState {
    state: NodeDesiredState,
    /// Whether models that the state does not name are kept for now.
    holds: bool,
}

/// Which desired state the node follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FollowedState {
    /// The id of the fleet that the node belongs to. Empty: it has joined none yet.
    pub(crate) fleet: String,
    pub(crate) version: StateVersion,
}

/// A desired state of another fleet, which the node does not follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "it belongs to the fleet '{theirs}', and this node to the fleet '{ours}': nothing is changed here. To move the node to that fleet, start its agent with --adopt-fleet {theirs}: its models are then replaced by those that the fleet wants there, the files of the earlier ones are kept for --file-retention, and the fleet '{ours}' lists the node as Lost until `flotilla delete node NAME` there"
)]
pub(crate) struct ForeignFleetError {
    ours: String,
    theirs: String,
}

/// What a node does with a desired state.
#[derive(Debug, PartialEq, Eq)]
enum StateDecision {
    /// Follows it.
    Follow,
    /// Ignores it, since it follows a newer one.
    Ignore,
    /// Refuses it, since it is of another fleet.
    Refuse,
}

/// Decides about a desired state of the fleet `fleet`. A node without a fleet joins the first one.
fn decide(followed: &FollowedState, fleet: &str, version: StateVersion) -> StateDecision {
    if fleet.is_empty() || (!followed.fleet.is_empty() && followed.fleet != fleet) {
        StateDecision::Refuse
    } else if !followed.fleet.is_empty() && version < followed.version {
        StateDecision::Ignore
    } else {
        StateDecision::Follow
    }
}

impl DesiredStateReceiver {
    /// Starts with the state stored in `data_dir`. The returned receiver has the models that the node
    /// should run, or `None` while they are not known. With `adopt_fleet` the node follows that fleet alone; it
    /// belongs to it, on the disk as well, from its first desired state on.
    ///
    /// # Errors
    /// [`DataDirError`] if the node's fleet cannot be read.
    pub(crate) fn new(
        data_dir: DataDir,
        adopt_fleet: Option<String>,
    ) -> Result<(Self, watch::Receiver<DesiredModels>), DataDirError> {
        let current = match data_dir.load_desired_state() {
            Err(DataDirError::UnknownFleet(_)) if adopt_fleet.is_some() => {
                NodeDesiredState::default()
            }
            loaded => loaded?,
        };
        let followed = match adopt_fleet {
            Some(fleet) if fleet != current.fleet => {
                tracing::warn!(
                    from = current.fleet,
                    to = fleet,
                    "this node moves to another fleet once it is linked to a controller of it; until then it keeps its models and belongs to its earlier fleet"
                );
                FollowedState {
                    fleet,
                    version: StateVersion::default(),
                }
            }
            _ => followed(&current),
        };
        let (models, models_receiver) = watch::channel(read_models(&current, None, false));
        let current = CurrentState {
            state: current,
            holds: false,
        };
        let receiver = Self {
            data_dir: Arc::new(data_dir),
            followed: parking_lot::Mutex::new(followed),
            current: Arc::new(Mutex::new(current)),
            models,
        };
        Ok((receiver, models_receiver))
    }

    /// Returns which desired state the node follows.
    pub(super) fn followed(&self) -> FollowedState {
        self.followed.lock().clone()
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

    /// Applies a desired state from a controller, unless it is older than the current one.
    ///
    /// # Errors
    /// [`ForeignFleetError`] if it is of another fleet than the node's. Nothing changes then.
    pub(super) async fn receive(&self, message: v1::DesiredState) -> Result<(), ForeignFleetError> {
        let mut current = self.current.lock().await;
        let version = StateVersion {
            epoch: message.epoch,
            revision: StoreRevision(message.store_revision),
        };
        let follows = self.followed();
        match decide(&follows, &message.fleet_id, version) {
            StateDecision::Follow => {}
            StateDecision::Ignore => {
                tracing::debug!(%version, current = %current.state.version, "ignoring an old desired state");
                return Ok(());
            }
            StateDecision::Refuse => {
                return Err(ForeignFleetError {
                    ours: follows.fleet,
                    theirs: message.fleet_id,
                });
            }
        }
        if current.state.fleet != message.fleet_id {
            tracing::info!(fleet = message.fleet_id, "this node now belongs to a fleet");
        }
        let state = NodeDesiredState {
            fleet: message.fleet_id,
            version,
            models: Some(
                message
                    .models
                    .into_iter()
                    .filter_map(convert_or_log)
                    .collect(),
            ),
        };
        if current.state == state {
            return Ok(());
        }
        self.store(state.clone()).await;
        let followed = followed(&state);
        if current.state.fleet == followed.fleet
            && current.state.version.epoch < followed.version.epoch
        {
            current.holds = true;
            self.release_later(followed.version.epoch);
        }
        current.state = state;
        let CurrentState { state, holds } = &*current;
        self.models
            .send_modify(|models| *models = read_models(state, models.take(), *holds));
        *self.followed.lock() = followed;
        Ok(())
    }

    /// Ends the time in which the models of before are kept.
    fn release_later(&self, epoch: u64) {
        let (current, models) = (self.current.clone(), self.models.clone());
        tokio::spawn(async move {
            tokio::time::sleep(HOLD_TIME).await;
            release(&current, &models, epoch).await;
        });
    }
}

/// Keeps only the models that the desired state names, unless another epoch has begun since `epoch`.
async fn release(current: &Mutex<CurrentState>, models: &watch::Sender<DesiredModels>, epoch: u64) {
    let mut current = current.lock().await;
    if current.state.version.epoch == epoch {
        current.holds = false;
        let state = &current.state;
        models.send_modify(|models| *models = read_models(state, models.take(), false));
    }
}

/// Reads the models of a desired state. One that this version cannot read stays as it was `before`, so that
/// what cannot start does not stop what serves. With `holds`, models that are not named stay as well.
fn read_models(state: &NodeDesiredState, before: DesiredModels, holds: bool) -> DesiredModels {
    let before = before.unwrap_or_default();
    let models = state.models.as_ref()?.iter().map(|sent| {
        let model = sent.read();
        let is_unreadable = sent.resource.is_some() && model.model.is_none();
        let mut before = before.iter().filter(|_| is_unreadable);
        let before = before.find(|before| before.name == model.name);
        before
            .cloned()
            .map_or(model, |before| with_hold(before, false))
    });
    let mut models: Vec<_> = models.collect();
    if holds {
        let is_named = |name: &ModelName| models.iter().any(|model| model.name == *name);
        let held = before.into_iter().filter(|held| !is_named(&held.name));
        let held: Vec<_> = held.map(|model| with_hold(model, true)).collect();
        models.extend(held);
    }
    Some(models)
}

fn with_hold(model: DesiredModel, is_held: bool) -> DesiredModel {
    DesiredModel { is_held, ..model }
}

/// The fleet and the version of a desired state.
fn followed(state: &NodeDesiredState) -> FollowedState {
    FollowedState {
        fleet: state.fleet.clone(),
        version: state.version,
    }
}

/// Converts a model. An invalid model is logged and left out: the controller sees that it never becomes
/// ready.
fn convert_or_log(message: v1::DesiredModel) -> Option<SentModel> {
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

fn convert(message: v1::DesiredModel) -> Result<SentModel, String> {
    let name = ModelName::new(&message.name).map_err(|error| error.to_string())?;
    let resource = match message.resource_json {
        json if json.is_empty() => None,
        // A text that is no JSON is a resource that cannot be read.
        json => Some(serde_json::from_str(&json).unwrap_or(Value::String(json))),
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
    Ok(SentModel {
        name,
        revision: ModelRevision(message.revision),
        resource,
        files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::{EngineKind, Model, ModelSpec};
    use proptest::prelude::*;

    fn message(fleet: &str, epoch: u64, revision: u64, model: &str) -> v1::DesiredState {
        v1::DesiredState {
            fleet_id: fleet.into(),
            epoch,
            store_revision: revision,
            models: vec![v1::DesiredModel {
                name: model.into(),
                revision: 1,
                ..Default::default()
            }],
            ..v1::DesiredState::default()
        }
    }

    type Models = watch::Receiver<DesiredModels>;

    fn open(dir: &tempfile::TempDir, adopt_fleet: Option<&str>) -> (DesiredStateReceiver, Models) {
        let data_dir = DataDir::open(dir.path()).unwrap();
        DesiredStateReceiver::new(data_dir, adopt_fleet.map(str::to_owned)).unwrap()
    }

    fn names(models: &Models) -> Vec<String> {
        let models = models.borrow();
        let models = models.iter().flatten();
        models.map(|model| model.name.to_string()).collect()
    }

    #[tokio::test]
    async fn models_are_kept_for_a_while_where_a_new_epoch_does_not_name_them() {
        let dir = tempfile::tempdir().unwrap();
        let (receiver, models) = open(&dir, None);
        receiver.receive(message("f", 0, 90, "m")).await.unwrap();
        let mut empty = message("f", 1, 3, "m");
        empty.models.clear();
        // The store was restored, and the leader has assigned nothing.
        receiver.receive(empty.clone()).await.unwrap();
        assert_eq!(names(&models), ["m"]);
        receiver.receive(message("f", 1, 4, "other")).await.unwrap();
        assert_eq!(names(&models), ["other", "m"]);
        let held: Vec<_> = models
            .borrow()
            .iter()
            .flatten()
            .map(|m| m.is_held)
            .collect();
        assert_eq!(held, [false, true]);
        release(&receiver.current, &receiver.models, 0).await;
        assert_eq!(names(&models), ["other", "m"], "of an earlier epoch");
        release(&receiver.current, &receiver.models, 1).await;
        assert_eq!(names(&models), ["other"], "it is not named in the end");
        empty.store_revision = 5;
        receiver.receive(empty).await.unwrap();
        assert!(names(&models).is_empty(), "in the same epoch");
    }

    #[tokio::test]
    async fn the_newest_desired_state_counts_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (receiver, models) = open(&dir, None);
        assert_eq!(*models.borrow(), None, "not known yet");
        receiver.receive(message("f", 0, 5, "five")).await.unwrap();
        receiver.receive(message("f", 0, 4, "four")).await.unwrap();
        assert_eq!(names(&models), ["five"]);
        drop((receiver, models));
        let (receiver, models) = open(&dir, None);
        receiver.receive(message("f", 0, 4, "four")).await.unwrap();
        assert_eq!(names(&models), ["five"]);
        receiver.receive(message("f", 0, 6, "six")).await.unwrap();
        assert_eq!(names(&models), ["six"]);
        receiver.receive(message("f", 1, 2, "two")).await.unwrap();
        assert_eq!(names(&models)[0], "two", "the later epoch counts");
        receiver.receive(message("f", 0, 9, "nine")).await.unwrap();
        release(&receiver.current, &receiver.models, 1).await;
        assert_eq!(names(&models), ["two"]);
        receiver
            .receive(message("f", 1, 3, "NO NAME"))
            .await
            .unwrap();
        assert!(names(&models).is_empty());
    }

    #[tokio::test]
    async fn a_foreign_fleet_is_refused_until_the_node_adopts_it() {
        let dir = tempfile::tempdir().unwrap();
        let (receiver, models) = open(&dir, None);
        receiver.receive(message("f", 3, 5, "mine")).await.unwrap();
        drop((receiver, models));
        let (receiver, models) = open(&dir, None);
        for foreign in ["other", ""] {
            let refused = receiver.receive(message(foreign, 9, 9, "theirs")).await;
            assert!(refused.is_err(), "{foreign}");
        }
        let refused = receiver.receive(message("other", 9, 9, "theirs")).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("--adopt-fleet other"), "{text}");
        assert_eq!(names(&models), ["mine"]);
        assert_eq!(receiver.followed().fleet, "f");
        drop((receiver, models));
        // Without a controller of the new fleet, the node still belongs to the earlier one.
        let (receiver, models) = open(&dir, Some("unknown"));
        assert_eq!(names(&models), ["mine"]);
        assert_eq!(receiver.followed().fleet, "unknown");
        assert!(receiver.receive(message("f", 4, 5, "mine")).await.is_err());
        drop((receiver, models));
        let (receiver, models) = open(&dir, None);
        assert_eq!(receiver.followed().fleet, "f");
        drop((receiver, models));
        let (receiver, models) = open(&dir, Some("other"));
        assert_eq!(names(&models), ["mine"], "until the new fleet has spoken");
        receiver
            .receive(message("other", 0, 1, "theirs"))
            .await
            .unwrap();
        assert_eq!(names(&models), ["theirs"]);
        assert!(receiver.receive(message("f", 4, 6, "mine")).await.is_err());
    }

    #[tokio::test]
    async fn a_model_that_cannot_be_read_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (receiver, models) = open(&dir, None);
        let mut state = message("f", 0, 1, "m");
        state.models[0].resource_json = "{".into();
        receiver.receive(state.clone()).await.unwrap();
        let revision = || {
            let models = models.borrow();
            let model = &models.as_ref().unwrap()[0];
            (model.revision.0, model.model.is_some())
        };
        assert_eq!(revision(), (1, false));
        let model = Model::new(
            ModelName::new("m").unwrap(),
            ModelSpec {
                engine: EngineKind::Simulated,
                ..ModelSpec::default()
            },
        );
        state.models[0].resource_json = serde_json::to_string(&model).unwrap();
        state.models[0].revision = 2;
        state.store_revision = 2;
        receiver.receive(state.clone()).await.unwrap();
        assert_eq!(revision(), (2, true));
        state.models[0].resource_json = "{".into();
        state.models[0].revision = 3;
        state.store_revision = 3;
        receiver.receive(state).await.unwrap();
        assert_eq!(revision(), (2, true));
        receiver.receive(message("f", 0, 4, "other")).await.unwrap();
        assert_eq!(names(&models), ["other"]);
    }

    #[tokio::test]
    async fn a_node_that_lost_its_desired_state_stays_in_its_fleet_without_known_models() {
        let dir = tempfile::tempdir().unwrap();
        let (receiver, models) = open(&dir, None);
        receiver.receive(message("f", 3, 5, "m")).await.unwrap();
        drop((receiver, models));
        std::fs::remove_file(dir.path().join("desired.json")).unwrap();
        let (receiver, models) = open(&dir, None);
        assert_eq!(*models.borrow(), None);
        let refused = receiver.receive(message("other", 9, 9, "theirs")).await;
        assert!(refused.is_err());
        receiver.receive(message("f", 0, 1, "m")).await.unwrap();
        assert_eq!(names(&models), ["m"]);
    }

    proptest! {
        #[test]
        fn a_node_follows_its_own_fleet_alone_and_never_an_older_state(
            ours in "[ab]?", theirs in "[ab]?", had in (0..3_u64, 0..3_u64), new in (0..3_u64, 0..3_u64)
        ) {
            let version = |(epoch, revision)| StateVersion { epoch, revision: StoreRevision(revision) };
            let followed = FollowedState { fleet: ours.clone(), version: version(had) };
            let follows = decide(&followed, &theirs, version(new)) == StateDecision::Follow;
            let may = !theirs.is_empty() && (ours.is_empty() || (ours == theirs && new >= had));
            prop_assert_eq!(follows, may);
        }
    }
}
