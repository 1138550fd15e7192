//! The state of one node.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use flotilla_core::spec::ModelSpec;
use flotilla_core::{ModelName, ModelRevision, NodeName, StoreRevision};
use flotilla_dispatch::{ReplicaLimits, ReplicaStats, ReplicaView};
use flotilla_proto::v1::{ModelPhase, ModelStatus, NodeDisk};

use super::node_health::{LocalSession, NodeHealth};
use super::node_report::LastUse;
use super::{LinkRecord, NodeLink, NodeRecord, NodeReport, ReportedStatus, SessionId};

/// The session of a node with this controller.
struct NodeSession {
    link: Arc<NodeLink>,
    /// Whether the node has reported since it joined.
    reporting: bool,
}

/// The state of one node.
pub(super) struct NodeState {
    /// The node's description: of its current session, otherwise the stored one.
    pub(super) record: NodeRecord,
    /// The description in the store, if it is stored.
    pub(super) stored_record: Option<NodeRecord>,
    session: Option<NodeSession>,
    pub(super) health: NodeHealth,
    /// The links of the node to other controllers, by their ids.
    pub(super) remote_links: BTreeMap<String, LinkRecord>,
    /// The revision of the last change in the store to what the node should run.
    pub(super) desired_revision: StoreRevision,
    /// The node's last report, shared with the views.
    pub(super) report: Arc<ArcSwap<NodeReport>>,
    /// The statistics of the node's replicas. They outlive a view, and end with the session.
    replica_stats: HashMap<ModelName, RevisionStats>,
}

/// The statistics of a replica at one revision: another revision may be as fast or as slow as it likes.
struct RevisionStats {
    revision: ModelRevision,
    stats: Arc<ReplicaStats>,
}

impl NodeState {
    /// A node that is known but not connected.
    pub(super) fn disconnected(record: NodeRecord, now: Instant) -> Self {
        Self {
            record,
            stored_record: None,
            session: None,
            health: NodeHealth::disconnected(now),
            remote_links: BTreeMap::new(),
            desired_revision: StoreRevision::default(),
            report: Arc::default(),
            replica_stats: HashMap::new(),
        }
    }

    /// Returns the link of the node's session with this controller, if there is one.
    pub(super) fn link(&self) -> Option<&Arc<NodeLink>> {
        self.session.as_ref().map(|session| &session.link)
    }

    /// Returns whether `id` is the node's current session with this controller.
    pub(super) fn has_session(&self, id: &SessionId) -> bool {
        self.link().is_some_and(|link| link.session == *id)
    }

    /// Returns whether the node has a session with this controller and has reported in it.
    pub(super) fn is_reporting(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.reporting)
    }

    /// Returns whether the node has a session with this or another controller.
    pub(super) fn is_connected(&self) -> bool {
        self.session.is_some() || self.health.has_remote_links()
    }

    /// Derives the node's phase from its sessions. Returns whether it changed.
    pub(super) fn update_health(&mut self, now: Instant) -> bool {
        let local = match &self.session {
            None => LocalSession::None,
            Some(session) if session.reporting => LocalSession::Reporting,
            Some(_) => LocalSession::Joined,
        };
        self.health.update(local, now)
    }

    /// Starts a session. Returns the link of the session that it replaces.
    pub(super) fn start_session(
        &mut self,
        record: NodeRecord,
        link: Arc<NodeLink>,
    ) -> Option<Arc<NodeLink>> {
        self.record = record;
        self.replica_stats.clear();
        self.report.store(Arc::default());
        let session = NodeSession {
            link,
            reporting: false,
        };
        self.session.replace(session).map(|session| session.link)
    }

    /// Ends the session.
    pub(super) fn end_session(&mut self) {
        self.session = None;
        self.replica_stats.clear();
    }

    /// Stores a report of the session. Returns whether the view has to change. Counters change with every
    /// report and need no new view: they are read from the shared report.
    pub(super) fn set_report(&mut self, status: ReportedStatus, now: Instant) -> bool {
        let models = status.models;
        let Some(session) = &mut self.session else {
            return false;
        };
        let first = !std::mem::replace(&mut session.reporting, true);
        let before = self.report.load_full();
        let budget = |disk: Option<NodeDisk>| disk.and_then(|disk| disk.budget_bytes);
        let changed = first
            || before.followed.epoch != status.followed.epoch
            || before.stopping != status.stopping
            || budget(before.disk) != budget(status.disk)
            || !routing_status(&before.models).eq(routing_status(&models));
        let mut uses = HashMap::with_capacity(models.len());
        for status in &models {
            let Ok(name) = ModelName::new(&status.name) else {
                continue;
            };
            let counters = status.counters.unwrap_or_default();
            let requests = counters.active + counters.queued;
            if let Some(RevisionStats { stats, .. }) = self.replica_stats.get(&name) {
                stats.set_reported_requests(requests);
            }
            let before = before.uses.get(&name);
            let last_use = LastUse::update(before, counters.requests, requests > 0, now);
            uses.insert(name, last_use);
        }
        let report = NodeReport {
            models,
            uses,
            // Only some reports carry the energy status.
            energy: status.energy.or_else(|| before.energy.clone()),
            followed: status.followed,
            disk: status.disk,
            stopping: status.stopping,
        };
        let pressure = report.pressure();
        for RevisionStats { stats, .. } in self.replica_stats.values() {
            stats.set_pressure(pressure);
        }
        self.report.store(Arc::new(report));
        changed
    }

    /// Returns the node's replica of a model if it can take requests from this controller.
    pub(super) fn ready_replica(
        &mut self,
        node: &NodeName,
        model: &ModelName,
        spec: &ModelSpec,
    ) -> Option<ReplicaView> {
        let session = self.session.as_ref()?;
        if !session.reporting || !session.link.is_connected() {
            return None;
        }
        let report = self.report.load();
        let status = report.model(model)?;
        if status.phase() != ModelPhase::Ready || report.stopping {
            return None;
        }
        let limits = ReplicaLimits {
            // 0: the agent is too old to report its concurrency.
            concurrency: match status.concurrency {
                0 => spec.concurrency,
                concurrency => concurrency.min(spec.concurrency),
            },
            capacity: spec.concurrency.saturating_add(spec.queue),
            power: self.record.spec.power_or_estimate(),
            prefix_cache: status.prefix_cache,
        };
        let revision = ModelRevision(status.revision);
        let stats = match self.replica_stats.get(model) {
            Some(known) if known.revision == revision && known.stats.limits() == limits => {
                known.stats.clone()
            }
            _ => {
                let stats = Arc::new(ReplicaStats::new(limits));
                stats.set_pressure(report.pressure());
                let known = RevisionStats {
                    revision,
                    stats: stats.clone(),
                };
                self.replica_stats.insert(model.clone(), known);
                stats
            }
        };
        Some(ReplicaView {
            node: node.clone(),
            zones: Arc::new(self.record.spec.zones.clone()),
            revision,
            transport: session.link.clone(),
            stats,
        })
    }
}

/// The part of a report that placement and routing depend on.
fn routing_status(models: &[ModelStatus]) -> impl Iterator<Item = impl PartialEq + '_> {
    models.iter().map(|status| {
        let next = status.replacement.as_ref();
        let next = next.map(|next| (next.phase, next.revision));
        (
            &status.name,
            status.phase,
            status.revision,
            status.memory_bytes,
            next,
        )
    })
}
