//! A node as the fleet's state has it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use flotilla_core::health::NodeLifecycle;
use flotilla_core::spec::ModelSpec;
use flotilla_core::{ModelName, ModelRevision, NodeName, StoreRevision};
use flotilla_proto::v1::{ModelPhase, ModelStatus, NodeEnergy};

use super::load_guard::ReplicaLimits;
use super::view::LastUse;
use super::{NodeLink, NodeRecord, NodeReport, ReplicaStats, ReplicaView};

/// A node.
pub(super) struct NodeState {
    pub(super) record: NodeRecord,
    /// The record as the store has it.
    pub(super) kept: Option<NodeRecord>,
    /// The session with this controller, while there is one.
    pub(super) link: Option<Arc<NodeLink>>,
    /// Whether the session's sync stream has brought a report.
    pub(super) reporting: bool,
    /// Other controllers that it is linked to.
    pub(super) elsewhere: BTreeSet<String>,
    pub(super) life: NodeLifecycle,
    pub(super) touched: StoreRevision,
    pub(super) report: Arc<ArcSwap<NodeReport>>,
    loads: HashMap<ModelName, Arc<ReplicaStats>>,
}

impl NodeState {
    /// A node that is known but not linked.
    pub(super) fn away(record: NodeRecord, now: Instant) -> Self {
        Self {
            record,
            kept: None,
            link: None,
            reporting: false,
            elsewhere: BTreeSet::new(),
            life: NodeLifecycle::away(now),
            touched: StoreRevision::default(),
            report: Arc::default(),
            loads: HashMap::new(),
        }
    }

    /// Takes over what its links say about whether it is there. Returns whether that is news.
    pub(super) fn live(&mut self, now: Instant) -> bool {
        let before = self.life.phase();
        let elsewhere = !self.elsewhere.is_empty();
        if self.link.is_some() || elsewhere {
            self.life.linked(now);
        } else {
            self.life.unlinked(now);
        }
        if self.reporting || elsewhere {
            self.life.reported(now);
        }
        before != self.life.phase()
    }

    /// A new session begins. Returns the one it takes the place of.
    pub(super) fn join(
        &mut self,
        record: NodeRecord,
        link: Arc<NodeLink>,
    ) -> Option<Arc<NodeLink>> {
        self.record = record;
        self.reporting = false;
        self.loads.clear();
        self.report.store(Arc::default());
        self.link.replace(link)
    }

    /// Its session has ended.
    pub(super) fn leave(&mut self) {
        self.link = None;
        self.reporting = false;
        self.loads.clear();
    }

    /// Takes a report. Returns whether it changes who is asked.
    pub(super) fn take(
        &mut self,
        models: Vec<ModelStatus>,
        energy: Option<NodeEnergy>,
        now: Instant,
    ) -> bool {
        // Counters move with every report; only what decides who is asked makes a new view.
        fn deciding(models: &[ModelStatus]) -> impl Iterator<Item = impl PartialEq + '_> {
            models.iter().map(|m| {
                let next = m.next.as_ref().map(|next| (next.phase, next.revision));
                (&m.name, m.phase, m.revision, m.memory, next)
            })
        }
        let before = self.report.load();
        let changed = !self.reporting || !deciding(&before.models).eq(deciding(&models));
        self.reporting = true;
        let mut uses = HashMap::with_capacity(models.len());
        for status in &models {
            let Ok(name) = ModelName::new(&status.name) else {
                continue;
            };
            let counters = status.counters.unwrap_or_default();
            let busy = counters.active + counters.queued > 0;
            if let Some(load) = self.loads.get(&name) {
                load.note(counters.active + counters.queued);
            }
            let known = before.uses.get(&name);
            let unused = known.filter(|known| !busy && known.begun == counters.requests);
            let used = LastUse {
                begun: counters.requests,
                busy,
                at: unused.map_or(now, |known| known.at),
            };
            uses.insert(name, used);
        }
        // What it draws is told now and then, not with every report.
        let energy = energy.or_else(|| before.energy.clone());
        drop(before);
        let report = NodeReport {
            models,
            uses,
            energy,
        };
        let strain = report.strain();
        for load in self.loads.values() {
            load.strains(strain);
        }
        self.report.store(Arc::new(report));
        changed
    }

    /// The node's replica of a model, if it takes requests.
    pub(super) fn replica(
        &mut self,
        node: &NodeName,
        model: &ModelName,
        spec: &ModelSpec,
    ) -> Option<ReplicaView> {
        let link = self.link.as_ref()?;
        if !self.reporting || !link.is_connected() {
            return None;
        }
        let report = self.report.load();
        let status = report.model(model)?;
        if status.phase() != ModelPhase::Ready {
            return None;
        }
        let limits = ReplicaLimits {
            // An agent that is too old to say computes as many as the spec says.
            concurrency: match status.concurrency {
                0 => spec.concurrency,
                most => most.min(spec.concurrency),
            },
            capacity: spec.concurrency.saturating_add(spec.queue),
            power: self.record.power(),
            prefix_cache: status.prefix_cache,
        };
        let load = match self.loads.get(model) {
            Some(load) if load.limits() == limits => load.clone(),
            _ => {
                let load = Arc::new(ReplicaStats::new(limits));
                load.strains(report.strain());
                self.loads.insert(model.clone(), load.clone());
                load
            }
        };
        Some(ReplicaView {
            node: node.clone(),
            zone: self.record.zone.clone(),
            revision: ModelRevision(status.revision),
            link: link.clone(),
            load,
        })
    }
}
