//! Builds the immutable view from the state.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use flotilla_core::health::NodePhase;
use flotilla_core::placement::{Assignment, ReplicaMemory};
use flotilla_core::rollout::ModelRevisions;
use flotilla_core::spec::ModelSource;
use flotilla_core::{ModelName, ModelRevision, NodeName};
use flotilla_dispatch::{ModelEndpoints, ReplicaView};

use super::decode::DesiredModelState;
use super::manifests;
use super::node::NodeState;
use super::state::FleetState;
use super::view::{
    FleetView, LoadFailureView, ModelView, NodeEnrolment, NodeView, UndecodedEntries,
};
use crate::store::keys::{self, StoreKey};

/// Where a model runs or should run.
#[derive(Default)]
struct ModelPlacement {
    /// The nodes it is assigned to, with the revision to serve.
    assigned: BTreeMap<NodeName, ModelRevision>,
    /// The failures that count now, by node.
    failures: BTreeMap<NodeName, LoadFailureView>,
    /// The replicas that take requests.
    replicas: Vec<ReplicaView>,
}

impl FleetState {
    /// Builds the view of this state at `now`.
    pub(super) fn build_view(&mut self, generation: u64, now: Instant) -> FleetView {
        self.update_loss_guard(now);
        let mut placements = self.model_placements();
        let mut models = BTreeMap::new();
        let stored = &self.stored;
        self.replaced
            .retain(|name| stored.models.contains_key(name) && !stored.stable.contains_key(name));
        for (name, desired) in &self.stored.models {
            let placement = placements.remove(name).unwrap_or_default();
            let mut view = self.model_view(name, desired, placement);
            let revisions = view.endpoints.revisions;
            if revisions.stable.is_none() && view.loadable {
                let revision = revisions.desired;
                let manifest = view.manifest.as_ref();
                view.replaced =
                    self.replaced
                        .observe(&desired.model, revision, manifest, &view.assigned);
            }
            models.insert(name.clone(), Arc::new(view));
        }
        let undecoded = self.undecoded_entries();
        let mut assigned_models: BTreeMap<&NodeName, Vec<ModelName>> = BTreeMap::new();
        for Assignment { node, model } in self.stored.assignments.keys() {
            let models = assigned_models.entry(node).or_default();
            models.push(model.clone());
        }
        for (model, nodes) in &undecoded.models {
            for node in nodes.keys() {
                let models = assigned_models.entry(node).or_default();
                models.push(model.clone());
            }
        }
        let nodes = self.nodes.iter().map(|(name, node)| {
            let assigned = assigned_models.remove(name).unwrap_or_default();
            let view = self.node_view(name, node, assigned, now);
            (name.clone(), Arc::new(view))
        });
        let reported = self.nodes.iter().filter(|(_, node)| node.link().is_some());
        let epochs = reported.map(|(name, node)| (name, node.report.load().followed));
        let impossible = epochs.filter(|(_, followed)| !followed.is_plausible(self.epoch));
        let impossible_epochs = impossible
            .map(|(name, followed)| (name.clone(), followed.epoch))
            .collect();
        FleetView {
            generation,
            plan: OnceLock::new(),
            impossible_epochs,
            unplaced: OnceLock::new(),
            nodes: nodes.collect(),
            models,
            controllers: self.stored.controllers.clone(),
            manifests: self.stored.manifests.clone(),
            routing: self.stored.routing.clone(),
            keys: self.stored.keys.clone(),
            controller_secret: self.stored.controller_secret.clone(),
            leader: self.stored.leader.clone(),
            authority: self.stored.authority.clone(),
            enrolments: self.stored.enrolments.clone(),
            join_tokens: self.stored.join_tokens.clone(),
            fleet_id: self.fleet_id.clone(),
            lost_fleet: self.lost_fleet.clone(),
            epoch: self.epoch,
            put_back: self.put_back,
            insecure: self.insecure,
            refusals: self.refusals.shown(),
            synced: self.synced,
            kept_since: self.kept_since,
            store_error: self.store.error.clone(),
            placement_hold: self.loss_guard.hold().cloned(),
            given_up: self.stored.given_up.clone(),
            changes_blocked: self.store.changes_blocked.clone(),
            ignored: self.ignored.notes(),
            undecoded,
        }
    }

    /// Collects what the entries are about that are not understood at all.
    fn undecoded_entries(&self) -> UndecodedEntries {
        let mut undecoded = UndecodedEntries::default();
        for key in self.ignored.undecoded().filter_map(keys::parse) {
            match key {
                StoreKey::Model(name) | StoreKey::StableRevision(name) => {
                    undecoded.models.entry(name).or_default();
                    undecoded.hides_files = true;
                }
                StoreKey::FailedRevision(name) => {
                    undecoded.models.entry(name).or_default();
                }
                // The node goes on with what it runs.
                StoreKey::Assignment(Assignment { node, model }) => {
                    let running = self.nodes.get(&node).and_then(|node| {
                        let report = node.report.load();
                        report
                            .model(&model)
                            .map(|status| ModelRevision(status.revision))
                    });
                    let assigned = undecoded.models.entry(model).or_default();
                    assigned.extend(running.map(|revision| (node, revision)));
                }
                StoreKey::PushedManifest(_) | StoreKey::FetchedManifest(_) => {
                    undecoded.hides_files = true
                }
                StoreKey::Node(name) if !self.nodes.contains_key(&name) => {
                    undecoded.nodes.insert(name);
                }
                _ => {}
            }
        }
        if undecoded.hides_files {
            let models = self.stored.models.iter();
            let unknown_files = models.filter(|(_, desired)| {
                let manifest = match &desired.model.spec.source {
                    Some(ModelSource::Artifact(name)) => keys::pushed_manifest(name),
                    Some(source) => keys::fetched_manifest(&keys::source_id(source)),
                    None => return false,
                };
                self.ignored.is_undecoded(&manifest)
            });
            for (name, _) in unknown_files {
                undecoded.models.entry(name.clone()).or_default();
            }
        }
        for (Assignment { node, model }, revision) in &self.stored.assignments {
            if let Some(assigned) = undecoded.models.get_mut(model) {
                assigned.insert(node.clone(), *revision);
            }
        }
        undecoded.keys = self.ignored.undecoded().map(str::to_owned).collect();
        undecoded
    }

    /// Collects the placement of every model that is assigned or has failed somewhere. It needs
    /// `&mut` because nodes create the statistics of new replicas.
    fn model_placements(&mut self) -> BTreeMap<ModelName, ModelPlacement> {
        let mut placements: BTreeMap<ModelName, ModelPlacement> = BTreeMap::new();
        for (Assignment { node, model }, revision) in &self.stored.assignments {
            let placement = placements.entry(model.clone()).or_default();
            placement.assigned.insert(node.clone(), *revision);
            if let (Some(desired), Some(state)) =
                (self.stored.models.get(model), self.nodes.get_mut(node))
            {
                let spec = &desired.model.spec;
                let replica = state.ready_replica(node, model, spec);
                placement.replicas.extend(replica);
            }
        }
        for (model, failures) in self.failures.by_model() {
            let placement = placements.entry(model.clone()).or_default();
            placement.failures = failures;
        }
        placements
    }

    fn model_view(
        &self,
        name: &ModelName,
        desired: &DesiredModelState,
        placement: ModelPlacement,
    ) -> ModelView {
        let spec = &desired.model.spec;
        let delivered = spec.source.as_ref().filter(|source| source.is_delivered());
        let manifest = delivered.and_then(|source| self.stored.manifests.get(source));
        let fetch = delivered.and_then(|source| {
            let fetches = &self.stored.manifests.fetches;
            fetches.get(&keys::source_id(source))
        });
        let loadable = delivered.is_none() || manifest.is_some();
        let stable = self.stored.stable.get(name);
        let failed = self.stored.failed.get(name);
        let revisions = ModelRevisions {
            desired: manifests::model_revision(&desired.model, manifest.map(AsRef::as_ref)),
            stable: stable.map(|stable| stable.revision),
            failed: failed.map(|failed| failed.revision),
        };
        let fetching = fetch.is_none_or(|fetch| fetch.error.is_empty());
        let coming = self.is_replica_expected(&placement, loadable || fetching);
        // While a failed revision is rolled back, what counts is the memory of the one that is served.
        let served = stable.filter(|stable| stable.revision == revisions.target());
        let served = served.map_or(&desired.model, |stable| &stable.model);
        let specified = served.spec.memory;
        let measured = self.measured_memory.get(name, revisions.target());
        let estimated = manifest.map(|manifest| match served.spec.base {
            Some(_) => manifest.weights(),
            None => manifest.estimated_memory(),
        });
        // A kind that no node has measured counts as the other one.
        let host = measured.host.or(measured.device);
        let device = measured.device.or(measured.host);
        let memory = ReplicaMemory {
            host: specified.or(host).or(estimated),
            device: specified.or(device).or(estimated),
        };
        let waiting = self.stored.waiting.get(name);
        let ModelPlacement {
            assigned,
            failures,
            replicas,
        } = placement;
        let mut endpoints = ModelEndpoints::new(desired.model.clone(), revisions, replicas);
        endpoints.stable = stable.map(|stable| stable.model.clone());
        endpoints.created = desired.created;
        endpoints.coming = coming;
        ModelView {
            endpoints: Arc::new(endpoints),
            stored_revision: desired.stored_revision,
            manifest: manifest.cloned(),
            loadable,
            fetch: fetch.cloned(),
            replaced: None,
            stable_manifest: stable.and_then(|stable| stable.manifest.clone()),
            failed_revision: failed
                .filter(|failed| failed.revision == revisions.desired)
                .cloned(),
            assigned,
            failures,
            memory,
            ignored_fields: self.ignored.fields(&keys::model(name)).to_vec(),
            waiting: waiting.map_or(0, |by_controller| by_controller.values().sum()),
        }
    }

    /// Returns whether a replica can be expected to answer soon: one is assigned to a node that has
    /// not failed, or the model can be placed as far as the state shows. If it cannot be placed after
    /// all, the pending queue rejects its requests.
    fn is_replica_expected(&self, placement: &ModelPlacement, files_expected: bool) -> bool {
        let mut nodes = self.nodes.values();
        if nodes.all(|node| node.health.phase() == NodePhase::Lost) {
            return false;
        }
        if placement.assigned.is_empty() {
            return self.can_place() && files_expected && placement.failures.is_empty();
        }
        // An assignment to a node that is away counts if it may move to another node. While the placement
        // cannot be written, it does not move.
        placement.assigned.iter().any(|(node, revision)| {
            let phase = self.nodes.get(node).map(|node| node.health.phase());
            let failure = placement.failures.get(node);
            let has_failed = failure.is_some_and(|failure| failure.revision == *revision);
            let may_move = self.can_place() && !self.loss_guard.is_held(node);
            !has_failed && (phase == Some(NodePhase::Ready) || may_move)
        })
    }

    fn node_view(
        &self,
        name: &NodeName,
        node: &NodeState,
        assigned: Vec<ModelName>,
        now: Instant,
    ) -> NodeView {
        NodeView {
            name: name.clone(),
            record: node.record.clone(),
            stored: node.stored_record.as_ref() == Some(&node.record)
                || self.ignored.is_undecoded(&keys::node(name)),
            phase: node.health.phase(),
            flapping: node.health.is_flapping(now),
            keeps_models: self.loss_guard.is_held(name),
            unheard: node.health.is_unheard(),
            enrolment: match self.stored.enrolments.get(name) {
                None => NodeEnrolment::None,
                Some(enrolment) if enrolment.revoked.is_some() => NodeEnrolment::Revoked,
                Some(_) => NodeEnrolment::Enrolled,
            },
            operation: self
                .stored
                .operations
                .get(name)
                .copied()
                .unwrap_or_default(),
            linked_locally: node.is_reporting(),
            link: node.link().cloned(),
            remote_links: node.remote_links.clone(),
            assigned: assigned.into_iter().collect(),
            desired_revision: node.desired_revision,
            report: node.report.clone(),
        }
    }
}
