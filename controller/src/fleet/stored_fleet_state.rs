//! The part of the fleet's state that is a copy of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_core::placement::Assignment;
use flotilla_core::spec::Model;
use flotilla_core::{ModelName, ModelRevision, NodeName, StoreRevision};

use flotilla_identity::keys::{ControllerSecret, KeyMap};

use super::decode::{DesiredModelState, StoredValue};
use super::ignored_parts::IgnoredParts;
use super::{
    ControllerRecord, FailedRevisionRecord, ModelAtRevision, ModelManifests, NodeOperationRecord,
};
use crate::store::keys::{self, StoreKey};
use flotilla_dispatch::RoutingView;
use flotilla_identity::authority::AuthorityRecord;
use flotilla_identity::enrolment::{Enrolment, JoinTokenRecord};

/// A copy of the store's entries, except those about single nodes, which are kept with the nodes.
#[derive(Default)]
pub(super) struct StoredFleetState {
    /// The id of the leading controller, while one leads.
    pub(super) leader: Option<String>,
    /// The running controllers, by id.
    pub(super) controllers: BTreeMap<String, ControllerRecord>,
    pub(super) models: BTreeMap<ModelName, DesiredModelState>,
    pub(super) stable: BTreeMap<ModelName, ModelAtRevision>,
    pub(super) failed: BTreeMap<ModelName, FailedRevisionRecord>,
    pub(super) routing: Arc<RoutingView>,
    pub(super) manifests: Arc<ModelManifests>,
    /// The assignments, with the revision to serve.
    pub(super) assignments: BTreeMap<Assignment, ModelRevision>,
    pub(super) operations: BTreeMap<NodeName, NodeOperationRecord>,
    /// The lost nodes whose models may be placed elsewhere, as far as a leader has recorded it.
    pub(super) given_up: BTreeSet<NodeName>,
    /// The fleet's certificate authority. `None`: it has none.
    pub(super) authority: Option<Arc<AuthorityRecord>>,
    /// The nodes that have enrolled.
    pub(super) enrolments: Arc<BTreeMap<NodeName, Enrolment>>,
    /// The join tokens, by id.
    pub(super) join_tokens: Arc<BTreeMap<String, JoinTokenRecord>>,
    /// The API keys of people and programs.
    pub(super) keys: Arc<KeyMap>,
    /// What the controllers identify themselves to each other with.
    pub(super) controller_secret: Option<ControllerSecret>,
    /// The number of requests in the pending queues, by model and id of the controller.
    pub(super) waiting: BTreeMap<ModelName, BTreeMap<String, u32>>,
}

impl StoredFleetState {
    /// Returns the nodes that a model is assigned to.
    pub(super) fn nodes_of<'a>(
        &'a self,
        model: &'a ModelName,
    ) -> impl Iterator<Item = &'a NodeName> {
        let assignments = self.assignments.keys();
        assignments
            .filter(move |assignment| assignment.model == *model)
            .map(|assignment| &assignment.node)
    }

    /// Forgets which processes live: their entries were lost with the store, and they write them anew.
    pub(super) fn forget_processes(&mut self) {
        self.leader = None;
        self.controllers.clear();
        self.waiting.clear();
    }

    /// Sets a value. Ignores values that are kept with the nodes, the fleet's id and the epoch.
    pub(super) fn put(&mut self, value: StoredValue) {
        match value {
            StoredValue::Model(name, desired) => {
                self.models.insert(name, *desired);
            }
            StoredValue::StableRevision(name, stable) => {
                self.stable.insert(name, stable);
            }
            StoredValue::FailedRevision(name, record) => {
                self.failed.insert(name, record);
            }
            StoredValue::Task(name, task) => {
                self.routing_mut().tasks.insert(name, Arc::from(task));
            }
            StoredValue::Router(spec) => {
                self.routing_mut().set_router(Some(spec));
            }
            StoredValue::Quality(task, model, record) => {
                let by_model = self.routing_mut().quality.entry(task).or_default();
                by_model.insert(model, record);
            }
            StoredValue::Assignment(assignment, revision) => {
                self.assignments.insert(assignment, revision);
            }
            StoredValue::NodeOperation(name, record) => {
                self.operations.insert(name, record);
            }
            StoredValue::GivenUp(name) => {
                self.given_up.insert(name);
            }
            StoredValue::PushedManifest(name, manifest) => {
                self.manifests_mut().pushed.insert(name, Arc::new(manifest));
            }
            StoredValue::FetchedManifest(id, manifest) => {
                self.manifests_mut().fetched.insert(id, Arc::new(manifest));
            }
            StoredValue::FetchProgress(id, record) => {
                self.manifests_mut().fetches.insert(id, record);
            }
            StoredValue::Controller(id, record) => {
                self.controllers.insert(id, record);
            }
            StoredValue::Waiting(model, controller_id, requests) => {
                let by_controller = self.waiting.entry(model).or_default();
                by_controller.insert(controller_id, requests);
            }
            StoredValue::Leader(id) => self.leader = Some(id),
            StoredValue::Authority(record) => self.authority = Some(record.into()),
            StoredValue::Enrolment(name, record) => {
                Arc::make_mut(&mut self.enrolments).insert(name, *record);
            }
            StoredValue::JoinToken(id, record) => {
                Arc::make_mut(&mut self.join_tokens).insert(id, *record);
            }
            StoredValue::ApiKey(record) => {
                Arc::make_mut(&mut self.keys).insert(record.id.clone(), Arc::from(record));
            }
            StoredValue::ControllerSecret(secret) => self.controller_secret = Some(*secret),
            StoredValue::Node(..)
            | StoredValue::Link(..)
            | StoredValue::FleetId(_)
            | StoredValue::Epoch(_) => {}
        }
    }

    /// Deletes the value of a key. Returns whether there was one. Ignores keys of values that are
    /// kept with the nodes, of the fleet's id and of the epoch.
    pub(super) fn delete(&mut self, key: &StoreKey) -> bool {
        match key {
            StoreKey::Model(name) => self.models.remove(name).is_some(),
            StoreKey::StableRevision(name) => self.stable.remove(name).is_some(),
            StoreKey::FailedRevision(name) => self.failed.remove(name).is_some(),
            StoreKey::Task(name) => self.routing_mut().tasks.remove(name).is_some(),
            StoreKey::Router => self.routing_mut().set_router(None),
            StoreKey::Quality(task, model) => self
                .routing_mut()
                .quality
                .get_mut(task)
                .is_some_and(|by_model| by_model.remove(model).is_some()),
            StoreKey::Assignment(assignment) => self.assignments.remove(assignment).is_some(),
            StoreKey::NodeOperation(name) => self.operations.remove(name).is_some(),
            StoreKey::GivenUp(name) => self.given_up.remove(name),
            StoreKey::PushedManifest(name) => self.manifests_mut().pushed.remove(name).is_some(),
            StoreKey::FetchedManifest(id) => self.manifests_mut().fetched.remove(id).is_some(),
            StoreKey::FetchProgress(id) => self.manifests_mut().fetches.remove(id).is_some(),
            StoreKey::Controller(id) => self.controllers.remove(id).is_some(),
            StoreKey::Waiting(model, controller_id) => self
                .waiting
                .get_mut(model)
                .is_some_and(|by_controller| by_controller.remove(controller_id).is_some()),
            StoreKey::Leader => self.leader.take().is_some(),
            StoreKey::Authority => self.authority.take().is_some(),
            StoreKey::Enrolment(name) => Arc::make_mut(&mut self.enrolments).remove(name).is_some(),
            StoreKey::JoinToken(id) => Arc::make_mut(&mut self.join_tokens).remove(id).is_some(),
            StoreKey::ApiKey(id) => Arc::make_mut(&mut self.keys).remove(id).is_some(),
            StoreKey::ControllerSecret => self.controller_secret.take().is_some(),
            StoreKey::Node(_) | StoreKey::Link(..) | StoreKey::FleetId | StoreKey::Epoch => false,
        }
    }

    /// Takes the desired state of a key from an earlier copy, if it has some. What lives only now is not
    /// taken.
    pub(super) fn take_from(&mut self, earlier: &mut Self, key: &StoreKey) {
        match key {
            StoreKey::Model(name) => move_entry(&mut earlier.models, &mut self.models, name),
            StoreKey::StableRevision(name) => {
                move_entry(&mut earlier.stable, &mut self.stable, name);
            }
            StoreKey::FailedRevision(name) => {
                move_entry(&mut earlier.failed, &mut self.failed, name);
            }
            StoreKey::Assignment(assignment) => {
                move_entry(&mut earlier.assignments, &mut self.assignments, assignment);
            }
            StoreKey::NodeOperation(name) => {
                move_entry(&mut earlier.operations, &mut self.operations, name);
            }
            StoreKey::PushedManifest(name) => {
                let earlier = &mut earlier.manifests_mut().pushed;
                move_entry(earlier, &mut self.manifests_mut().pushed, name);
            }
            StoreKey::FetchedManifest(id) => {
                let earlier = &mut earlier.manifests_mut().fetched;
                move_entry(earlier, &mut self.manifests_mut().fetched, id);
            }
            StoreKey::Task(name) => {
                let earlier = &mut earlier.routing_mut().tasks;
                move_entry(earlier, &mut self.routing_mut().tasks, name);
            }
            StoreKey::Authority => self.authority = earlier.authority.take(),
            StoreKey::Enrolment(name) => {
                let earlier = Arc::make_mut(&mut earlier.enrolments);
                move_entry(earlier, Arc::make_mut(&mut self.enrolments), name);
            }
            StoreKey::JoinToken(id) => {
                let earlier = Arc::make_mut(&mut earlier.join_tokens);
                move_entry(earlier, Arc::make_mut(&mut self.join_tokens), id);
            }
            _ => {}
        }
    }

    /// Serves the stable revision of each model whose desired state is not understood and was not before.
    pub(super) fn serve_stable_revisions(&mut self, ignored: &IgnoredParts) {
        for key in ignored.undecoded().filter_map(keys::parse) {
            if let StoreKey::Model(name) = key
                && let Some(stable) = self.stable.get(&name)
            {
                self.models
                    .entry(name)
                    .or_insert_with(|| DesiredModelState {
                        model: Model::clone(&stable.model),
                        stored_revision: StoreRevision::default(),
                        created: 0,
                    });
            }
        }
    }

    /// The routing part, copied first if a view shares it.
    fn routing_mut(&mut self) -> &mut RoutingView {
        Arc::make_mut(&mut self.routing)
    }

    /// The manifests, copied first if a view shares them.
    fn manifests_mut(&mut self) -> &mut ModelManifests {
        Arc::make_mut(&mut self.manifests)
    }
}

/// Moves the value of a key from one map to another, if there is one.
fn move_entry<K: Ord, V>(from: &mut BTreeMap<K, V>, to: &mut BTreeMap<K, V>, key: &K) {
    if let Some((key, value)) = from.remove_entry(key) {
        to.insert(key, value);
    }
}
