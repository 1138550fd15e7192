//! The state of the fleet: plain data that events change, with the time passed in.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::health::NodePhase;
use flotilla_core::loss_guard::LossGuard;
use flotilla_core::placement::Assignment;
use flotilla_core::{ModelName, ModelRevision, NodeName, StoreRevision};
use flotilla_proto::v1::{ModelPhase, ModelStatus};

use super::decode::{self, DesiredModelState, StoredValue};
use super::ignored_parts::IgnoredParts;
use super::join_refusals::JoinRefusals;
use super::load_failures::LoadFailures;
use super::measured_memory::MeasuredMemory;
use super::node::NodeState;
use super::replaced_revisions::ReplacedRevisions;
use super::staged_store::{self, StagedStore};
use super::store_availability::StoreAvailability;
use super::stored_fleet_state::StoredFleetState;
use super::{
    FleetEvent, JoinRefusal, LinkRecord, LoadFailureView, NodeLink, NodeRecord, ReportedStatus,
    SessionId,
};
use crate::store::keys::{self, StoreKey};
use crate::store::{StoreChange, StoreEntry};

/// Added to the grace of all nodes after this controller has started: the longest pause between an
/// agent's attempts to dial, and the time to join.
const RECONNECT_TIME: Duration = Duration::from_secs(10);

/// Everything that this controller knows about the fleet.
pub(super) struct FleetState {
    /// The id of this controller.
    id: String,
    /// How long a node may be disconnected before it counts as lost.
    grace: Duration,
    /// Whether the desired state is known: the store has been read, or what was kept of it.
    pub(super) synced: bool,
    /// When the desired state was read, in seconds since 1970, while it is the one that was kept on the
    /// disk. `None` once the store has been read.
    pub(super) kept_since: Option<u64>,
    /// The newest revision of the store whose changes are applied.
    store_revision: StoreRevision,
    /// How often the store was put back to an earlier state.
    pub(super) put_back: u64,
    /// Whether the store can be read and changed.
    pub(super) store: StoreAvailability,
    /// The fleet's id, once it is known.
    pub(super) fleet_id: Option<String>,
    /// The fleet that this controller belonged to, while the store has another one or none.
    pub(super) lost_fleet: Option<String>,
    /// What the store has while it has lost the fleet. Everything else here is then as it was before.
    staged: Option<StagedStore>,
    /// The store's epoch.
    pub(super) epoch: u64,
    /// The nodes that were refused lately.
    pub(super) refusals: JoinRefusals,
    /// Whether other machines reach this controller without TLS.
    pub(super) insecure: bool,
    pub(super) stored: StoredFleetState,
    /// What of the store this version does not understand.
    pub(super) ignored: IgnoredParts,
    pub(super) nodes: BTreeMap<NodeName, NodeState>,
    pub(super) failures: LoadFailures,
    pub(super) replaced: ReplacedRevisions,
    pub(super) measured_memory: MeasuredMemory,
    /// Which lost nodes may have their models placed elsewhere.
    pub(super) loss_guard: LossGuard,
}

impl FleetState {
    /// The state of the controller `id` before it knows anything.
    pub(super) fn new(id: &str, grace: Duration) -> Self {
        Self {
            id: id.to_owned(),
            grace,
            synced: false,
            kept_since: None,
            store_revision: StoreRevision::default(),
            put_back: 0,
            store: StoreAvailability::default(),
            fleet_id: None,
            lost_fleet: None,
            staged: None,
            epoch: 0,
            refusals: JoinRefusals::default(),
            insecure: false,
            stored: StoredFleetState::default(),
            ignored: IgnoredParts::default(),
            nodes: BTreeMap::new(),
            failures: LoadFailures::default(),
            replaced: ReplacedRevisions::default(),
            measured_memory: MeasuredMemory::default(),
            loss_guard: LossGuard::default(),
        }
    }

    /// Returns the newest revision of the store whose changes are applied.
    pub(super) fn store_revision(&self) -> StoreRevision {
        self.store_revision
    }

    /// Applies an event. Returns whether the view changes.
    pub(super) fn apply(&mut self, event: FleetEvent, now: Instant) -> bool {
        let changed = self.apply_event(event, now);
        self.store.update(now) || changed
    }

    fn apply_event(&mut self, event: FleetEvent, now: Instant) -> bool {
        match event {
            FleetEvent::StoreSnapshot { entries, revision } => {
                self.store_available(now);
                self.kept_since = None;
                if self.synced && self.has_or_lost_fleet() && !staged_store::has_fleet(&entries) {
                    self.stage_store(entries, revision, now);
                } else {
                    self.staged = None;
                    self.replace_stored(entries, revision, now);
                }
                true
            }
            FleetEvent::StorePutBack => {
                self.put_back += 1;
                false
            }
            FleetEvent::EarlierFleet(id) => {
                self.lost_fleet = Some(id).filter(|id| self.fleet_id.as_ref() != Some(id));
                true
            }
            FleetEvent::KeptState { .. } if self.synced => false,
            FleetEvent::KeptState {
                entries,
                revision,
                saved_at,
            } => {
                self.kept_since = Some(saved_at);
                self.replace_stored(entries, revision, now);
                true
            }
            FleetEvent::ChangesBlocked(error) => self.store.set_changes_blocked(error),
            FleetEvent::StoreChanged(change) => {
                let available = self.store_available(now);
                self.apply_change(change, now) || available
            }
            FleetEvent::StoreUnavailable(error) => {
                self.store.error = Some(error);
                true
            }
            FleetEvent::StoreAvailable => self.store_available(now),
            FleetEvent::NodeJoined { node, record, link } => {
                self.node_joined(node, record, link, now);
                true
            }
            FleetEvent::NodeReported {
                node,
                session,
                status,
            } => self.node_reported(&node, &session, status, now),
            FleetEvent::RunsInsecurely => {
                self.insecure = true;
                true
            }
            FleetEvent::JoinRefused(refusal) => {
                let (node, address) = (refusal.node.clone(), refusal.address.clone());
                let reason = refusal.reason.clone();
                let is_new = self.refusals.record(refusal, now);
                if is_new {
                    tracing::error!(%node, address, reason, "a node was refused");
                }
                is_new
            }
            FleetEvent::ConnectionsChanged { node } => self.nodes.contains_key(&node),
            FleetEvent::NodeLeft { node, session } => self.node_left(&node, &session, now),
        }
    }

    /// When the state changes by itself next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let available = self.store.answers();
        let nodes = self.nodes.values();
        let nodes = nodes.filter_map(|node| node.health.next_deadline(self.grace, available));
        nodes
            .chain(self.failures.next_deadline())
            .chain(self.loss_guard.next_deadline())
            .chain(self.refusals.next_deadline())
            .chain(self.store.next_deadline())
            .min()
    }

    /// Makes the changes that are due at `now`. Returns whether the view changes.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let available = self.store.answers();
        let mut changed = self.failures.expire(now);
        changed |= self.refusals.expire(now);
        // The guard itself is updated with the view.
        changed |= self
            .loss_guard
            .next_deadline()
            .is_some_and(|due| due <= now);
        changed |= self.store.update(now);
        for (name, node) in &mut self.nodes {
            if node.health.expire(self.grace, available, now) {
                if node.health.phase() == NodePhase::Lost {
                    tracing::warn!(node = %name, "the node is lost");
                }
                changed = true;
            }
        }
        changed
    }

    /// Notes that the store answers. Returns whether it did not before.
    fn store_available(&mut self, now: Instant) -> bool {
        if !self.store.set_answers() {
            return false;
        }
        // Other controllers could not publish their links to nodes in the meantime.
        for node in self.nodes.values_mut() {
            node.health.restart_grace(now);
        }
        true
    }

    /// Replaces everything that comes from the store.
    fn replace_stored(&mut self, entries: Vec<StoreEntry>, revision: StoreRevision, now: Instant) {
        let first = !std::mem::replace(&mut self.synced, true);
        // It is lower than before when the store was put back to an earlier state.
        self.put_back += u64::from(revision < self.store_revision);
        self.store_revision = revision;
        let earlier = std::mem::take(&mut self.stored);
        let present: HashSet<&str> = entries.iter().map(|entry| entry.key.as_str()).collect();
        self.ignored.retain(|key| present.contains(key));
        // A store without an id is not this fleet's store any more: nothing may be sent to nodes under
        // the earlier id.
        let earlier_fleet = self.fleet_id.take();
        self.epoch = 0;
        let mut earlier_records = BTreeMap::new();
        for (name, node) in &mut self.nodes {
            if let Some(record) = node.stored_record.take() {
                earlier_records.insert(name.clone(), record);
            }
            node.health.clear_remote_links();
            node.remote_links.clear();
        }
        for entry in entries {
            self.put_entry(entry, now);
        }
        self.compare_fleet(earlier_fleet.as_ref());
        if self.fleet_id == earlier_fleet {
            self.carry_undecoded(earlier, earlier_records);
        }
        self.stored.serve_stable_revisions(&self.ignored);
        self.nodes
            .retain(|_, node| node.link().is_some() || node.stored_record.is_some());
        for node in self.nodes.values_mut() {
            node.desired_revision = revision;
            node.update_health(now);
            let extra = if first {
                RECONNECT_TIME
            } else {
                Duration::ZERO
            };
            node.health.restart_grace(now + extra);
        }
    }

    /// Notes that the store has lost the fleet that it had, or has it again.
    fn compare_fleet(&mut self, earlier: Option<&String>) {
        if self.lost_fleet.is_none() {
            self.lost_fleet = earlier.cloned();
        }
        if self.lost_fleet == self.fleet_id {
            self.lost_fleet = None;
        }
    }

    /// Keeps the earlier values of the entries that cannot be decoded.
    fn carry_undecoded(
        &mut self,
        mut earlier: StoredFleetState,
        mut records: BTreeMap<NodeName, NodeRecord>,
    ) {
        for key in self.ignored.undecoded().filter_map(keys::parse) {
            if let StoreKey::Node(name) = &key {
                if let Some(node) = self.nodes.get_mut(name) {
                    node.stored_record = records.remove(name);
                }
            } else {
                self.stored.take_from(&mut earlier, &key);
            }
        }
    }

    /// Whether a leader can place models, as far as the store lets it.
    pub(super) fn can_place(&self) -> bool {
        !self.store.unchangeable && self.staged.is_none()
    }

    fn has_or_lost_fleet(&self) -> bool {
        self.fleet_id.is_some() || self.lost_fleet.is_some()
    }

    /// Notes that the store has lost the fleet: what was known of it stays, without what is sent to nodes.
    fn stage_store(&mut self, entries: Vec<StoreEntry>, revision: StoreRevision, now: Instant) {
        self.put_back += u64::from(revision < self.store_revision);
        self.store_revision = revision;
        let earlier = self.fleet_id.take();
        self.compare_fleet(earlier.as_ref());
        self.stored.forget_processes();
        for node in self.nodes.values_mut() {
            node.health.clear_remote_links();
            node.remote_links.clear();
            node.update_health(now);
            node.health.restart_grace(now);
        }
        let staged = StagedStore::new(entries);
        for entry in staged.live() {
            self.put_entry(entry.clone(), now);
        }
        self.staged = Some(staged);
    }

    /// Applies one change of the store. Returns whether the view changes.
    fn apply_change(&mut self, change: StoreChange, now: Instant) -> bool {
        self.store_revision = self.store_revision.max(change.revision());
        if let Some(mut staged) = self.staged.take() {
            staged.apply(change.clone());
            if staged.has_fleet() {
                self.replace_stored(staged.into_entries(), self.store_revision, now);
                return true;
            }
            self.staged = Some(staged);
            if !staged_store::is_live(change.key()) {
                return false;
            }
        }
        match change {
            StoreChange::Put(entry) => self.put_entry(entry, now),
            StoreChange::Delete { key, revision } => {
                let ignored = self.ignored.remove(&key);
                let key = keys::parse(&key);
                key.is_some_and(|key| self.delete(&key, revision, now)) || ignored
            }
        }
    }

    /// Decodes and sets an entry. An entry that cannot be decoded keeps its earlier value, but for keys.
    fn put_entry(&mut self, entry: StoreEntry, now: Instant) -> bool {
        let Some(key) = keys::parse(&entry.key) else {
            return false;
        };
        match decode::decode(key, entry.value, entry.revision) {
            Ok((value, unknown)) => {
                self.ignored.set_fields(&entry.key, unknown);
                let is_stable = matches!(value, StoredValue::StableRevision(..));
                let changed = self.put(value, entry.revision, now);
                if is_stable {
                    self.stored.serve_stable_revisions(&self.ignored);
                }
                changed
            }
            Err(error) => {
                // What a later version has narrowed must not be accepted as it was before.
                if let Some(key @ StoreKey::ApiKey(_)) = keys::parse(&entry.key) {
                    self.stored.delete(&key);
                }
                self.ignored.set_entry(&entry.key, error);
                true
            }
        }
    }

    fn put(&mut self, value: StoredValue, revision: StoreRevision, now: Instant) -> bool {
        match &value {
            StoredValue::Model(name, desired) => self.model_applied(name, desired, revision),
            StoredValue::StableRevision(name, _) => self.desired_changed(name, revision),
            StoredValue::Assignment(assignment, _) => {
                self.desired_changed_on(&assignment.node, revision);
            }
            StoredValue::Link(node, controller_id, link) => {
                return self.remote_link_added(node, controller_id, link, now);
            }
            StoredValue::Node(name, record) => {
                self.node_stored(name, record, now);
                return true;
            }
            StoredValue::FleetId(id) => {
                // A change in the same store is one that a restore has made. Who was refused may join now.
                self.fleet_id = Some(id.clone());
                self.compare_fleet(None);
                self.refusals = JoinRefusals::default();
                return true;
            }
            StoredValue::Epoch(epoch) => {
                self.epoch = *epoch;
                return true;
            }
            _ => {}
        }
        self.stored.put(value);
        true
    }

    fn delete(&mut self, key: &StoreKey, revision: StoreRevision, now: Instant) -> bool {
        match key {
            StoreKey::Model(name) => {
                self.failures.clear_model(name);
                self.measured_memory.remove_model(name);
                self.replaced.forget(name);
            }
            // The revision is tried again.
            StoreKey::FailedRevision(name) => self.failures.clear_model(name),
            StoreKey::Assignment(assignment) => {
                self.desired_changed_on(&assignment.node, revision);
            }
            StoreKey::Link(node, controller_id) => {
                return self.nodes.get_mut(node).is_some_and(|node| {
                    node.health.remove_remote_link(controller_id);
                    // Views show the links, for checks of nodes that join.
                    let was_linked = node.remote_links.remove(controller_id).is_some();
                    node.update_health(now) || was_linked
                });
            }
            StoreKey::Node(name) => return self.node_deleted(name),
            StoreKey::FleetId => {
                let earlier = self.fleet_id.take();
                self.compare_fleet(earlier.as_ref());
                return earlier.is_some();
            }
            StoreKey::Epoch => return std::mem::take(&mut self.epoch) > 0,
            _ => {}
        }
        self.stored.delete(key)
    }

    /// Forgets the failures of a model whose serving revision changes.
    fn model_applied(
        &mut self,
        name: &ModelName,
        desired: &DesiredModelState,
        revision: StoreRevision,
    ) {
        let serving = desired.model.serving_revision();
        let earlier = self.stored.models.get(name);
        if earlier.is_none_or(|earlier| earlier.model.serving_revision() != serving) {
            self.failures.clear_model(name);
            self.desired_changed(name, revision);
        }
    }

    /// Notes that what the nodes of a model should run has changed.
    fn desired_changed(&mut self, model: &ModelName, revision: StoreRevision) {
        for node in self.stored.nodes_of(model) {
            if let Some(node) = self.nodes.get_mut(node) {
                node.desired_revision = node.desired_revision.max(revision);
            }
        }
    }

    /// Notes that what one node should run has changed.
    fn desired_changed_on(&mut self, node: &NodeName, revision: StoreRevision) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.desired_revision = node.desired_revision.max(revision);
        }
    }

    fn node_stored(&mut self, name: &NodeName, record: &NodeRecord, now: Instant) {
        let node = self
            .nodes
            .entry(name.clone())
            .or_insert_with(|| NodeState::disconnected(record.clone(), now));
        if node.link().is_none() {
            node.record = record.clone();
        }
        node.stored_record = Some(record.clone());
    }

    fn node_deleted(&mut self, name: &NodeName) -> bool {
        match self.nodes.get_mut(name) {
            Some(node) if node.is_connected() => {
                node.stored_record = None;
                true
            }
            _ => self.nodes.remove(name).is_some(),
        }
    }

    fn remote_link_added(
        &mut self,
        node: &NodeName,
        controller_id: &str,
        link: &LinkRecord,
        now: Instant,
    ) -> bool {
        if controller_id == self.id {
            return false;
        }
        let Some(state) = self.nodes.get_mut(node) else {
            return false;
        };
        let before = state.health.phase();
        state.health.add_remote_link(controller_id.to_owned());
        let known = state
            .remote_links
            .insert(controller_id.to_owned(), link.clone());
        let mut changed = known.as_ref() != Some(link);
        // Two machines with one identity have joined two controllers at once. One of the controllers ends
        // its session; both know which.
        if let Some(local) = state.link()
            && local.peer.is_other_process(link)
            && controller_id < self.id.as_str()
        {
            local.closed.cancel();
            let refusal = JoinRefusal {
                node: node.clone(),
                address: local.peer.address.clone(),
                reason: format!(
                    "an agent with the same name and identity is linked to another controller from {}: the machine or its data directory was copied",
                    link.address
                ),
            };
            changed |= self.refusals.record(refusal, now);
        }
        changed |= state.update_health(now);
        self.expect_returns(node, before, now);
        changed
    }

    fn node_joined(
        &mut self,
        name: NodeName,
        record: NodeRecord,
        link: Arc<NodeLink>,
        now: Instant,
    ) {
        tracing::info!(node = %name, session = %link.session, "node joined");
        self.failures.clear_node(&name);
        let node = self
            .nodes
            .entry(name.clone())
            .or_insert_with(|| NodeState::disconnected(record.clone(), now));
        let before = node.health.phase();
        if let Some(replaced) = node.start_session(record, link) {
            replaced.closed.cancel();
        }
        node.update_health(now);
        self.expect_returns(&name, before, now);
    }

    fn node_left(&mut self, name: &NodeName, session: &SessionId, now: Instant) -> bool {
        let Some(node) = self.nodes.get_mut(name) else {
            return false;
        };
        if !node.has_session(session) {
            return false;
        }
        tracing::info!(node = %name, %session, "node left");
        node.end_session();
        node.update_health(now);
        // It joined and went before its description was stored: nothing of it is left anywhere, and
        // nobody would ever delete it.
        if node.stored_record.is_none() && !node.is_connected() {
            self.nodes.remove(name);
            self.failures.clear_node(name);
        }
        true
    }

    fn node_reported(
        &mut self,
        name: &NodeName,
        session: &SessionId,
        status: ReportedStatus,
        now: Instant,
    ) -> bool {
        let Some(node) = self.nodes.get_mut(name) else {
            return false;
        };
        if !node.has_session(session) {
            return false;
        }
        let followed = status.followed;
        let changed = node.set_report(status, now);
        // The node follows a state that was read later than the last change that concerns it, such as one
        // of another controller. What this controller knows is as new, once it has read as far.
        let outdated = followed.epoch == self.epoch
            && node.desired_revision < followed.revision
            && followed.revision <= self.store_revision;
        if outdated {
            node.desired_revision = followed.revision;
        }
        let mut changed = changed || outdated;
        changed |= node.update_health(now);
        let report = node.report.load_full();
        for status in &report.models {
            if let Ok(model) = ModelName::new(&status.name) {
                let assignment = Assignment {
                    node: name.clone(),
                    model,
                };
                changed |= self.learn_from_status(&assignment, status, now);
                if let Some(next) = &status.replacement {
                    changed |= self.learn_from_status(&assignment, next, now);
                }
            }
        }
        changed
    }

    /// Records the memory that a model needs, and whether it loaded. Returns whether the view changes.
    fn learn_from_status(
        &mut self,
        assignment: &Assignment,
        status: &ModelStatus,
        now: Instant,
    ) -> bool {
        let revision = ModelRevision(status.revision);
        let model = &assignment.model;
        match status.phase() {
            ModelPhase::Ready => {
                let memory = status.memory_bytes;
                self.measured_memory
                    .record(model, revision, memory, status.on_device);
                // The failure of the revision that should replace it counts until it has expired.
                let next = status.replacement.as_ref();
                let next_failed = next.is_some_and(|next| next.phase() == ModelPhase::Failed);
                !next_failed && self.failures.clear(assignment)
            }
            ModelPhase::Failed => {
                let needed = status.required_memory_bytes;
                self.measured_memory
                    .record(model, revision, needed, status.on_device);
                let failure = LoadFailureView {
                    revision,
                    error: match status.remedy.as_str() {
                        "" => status.error.clone(),
                        remedy => format!("{} ({remedy})", status.error),
                    },
                };
                self.failures.record(assignment.clone(), failure, now)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
