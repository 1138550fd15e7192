use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fleet::LinkRecord;
use crate::fleet::load_failures::FIRST_BACKOFF;
use crate::fleet::records::DesiredRecord;
use crate::fleet::store_availability::CHANGE_PATIENCE;
use flotilla_core::ReplicaReadiness;
use flotilla_core::StateVersion;
use flotilla_core::spec::{Model, Resource};

const GRACE: Duration = Duration::from_secs(5);

fn link(session: &str) -> Arc<NodeLink> {
    let node = NodeName::new("n1").unwrap();
    let session = SessionId(session.into());
    let peer = LinkRecord::default();
    Arc::new(NodeLink::new(node, session, peer, CancellationToken::new()))
}

/// The store's entry of a model. Different values of `queue` give different serving revisions.
fn model_entry(name: &str, queue: u32) -> StoreEntry {
    let resource = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model",
        "metadata": {"name": name}, "spec": {"engine": "simulated", "queue": queue},
    });
    StoreEntry {
        key: format!("{}models/{name}", keys::ROOT),
        value: serde_json::to_vec(&json!({"created": 1, "resource": resource})).unwrap(),
        revision: StoreRevision(u64::from(queue)),
    }
}

/// The serving revision of the model of [`model_entry`].
fn revision(queue: u32) -> ModelRevision {
    let record: DesiredRecord = serde_json::from_slice(&model_entry("m", queue).value).unwrap();
    let model: Model = Resource::from_json(record.resource)
        .and_then(Model::try_from)
        .unwrap();
    model.serving_revision()
}

fn status(phase: ModelPhase, queue: u32) -> ModelStatus {
    ModelStatus {
        name: "m".into(),
        revision: revision(queue).0,
        phase: phase.into(),
        error: "no file".into(),
        ..ModelStatus::default()
    }
}

fn snapshot(entries: Vec<StoreEntry>) -> FleetEvent {
    FleetEvent::StoreSnapshot {
        entries,
        revision: StoreRevision(7),
    }
}

struct TestState {
    state: FleetState,
    now: Instant,
    node: NodeName,
}

impl TestState {
    fn new() -> Self {
        let now = Instant::now();
        let mut state = FleetState::new("here", GRACE);
        state.apply(snapshot(vec![model_entry("m", 7)]), now);
        Self {
            state,
            now,
            node: NodeName::new("n1").unwrap(),
        }
    }

    fn join(&mut self, link: &Arc<NodeLink>) {
        let event = FleetEvent::NodeJoined {
            node: self.node.clone(),
            record: NodeRecord::example(),
            link: link.clone(),
        };
        self.state.apply(event, self.now);
        // As if the description were in the store.
        let node = self.state.nodes.get_mut(&self.node).unwrap();
        node.stored_record = Some(NodeRecord::example());
    }

    fn report(&mut self, session: &str, models: Vec<ModelStatus>) -> bool {
        let event = FleetEvent::NodeReported {
            node: self.node.clone(),
            session: SessionId(session.into()),
            status: ReportedStatus {
                models,
                ..ReportedStatus::default()
            },
        };
        self.state.apply(event, self.now)
    }

    fn leave(&mut self, session: &str) -> bool {
        let event = FleetEvent::NodeLeft {
            node: self.node.clone(),
            session: SessionId(session.into()),
        };
        self.state.apply(event, self.now)
    }

    fn phase(&mut self) -> NodePhase {
        self.state.build_view(1, self.now).nodes[&self.node].phase
    }

    fn failures(&mut self) -> usize {
        self.state.build_view(1, self.now).models["m"]
            .failures
            .len()
    }
}

#[test]
fn node_is_ready_from_its_first_report_until_it_leaves() {
    let mut fleet = TestState::new();
    fleet.join(&link("s1"));
    assert_eq!(fleet.phase(), NodePhase::Joining);
    assert!(fleet.report("s1", vec![]));
    assert_eq!(fleet.phase(), NodePhase::Ready);
    assert!(fleet.leave("s1"));
    assert_eq!(fleet.phase(), NodePhase::Suspect);
    assert_eq!(fleet.state.next_deadline(), Some(fleet.now + GRACE));
    assert!(!fleet.state.expire(fleet.now));
    fleet.now += GRACE;
    assert!(fleet.state.expire(fleet.now));
    assert_eq!(fleet.phase(), NodePhase::Lost);
    assert_eq!(fleet.state.next_deadline(), None);
}

#[test]
fn end_of_a_replaced_session_is_ignored() {
    let mut fleet = TestState::new();
    let (old, new) = (link("s1"), link("s2"));
    fleet.join(&old);
    fleet.join(&new);
    assert!(old.closed.is_cancelled() && !new.closed.is_cancelled());
    assert!(!fleet.report("s1", vec![]));
    assert!(!fleet.leave("s1"));
    assert!(fleet.report("s2", vec![]));
    assert_eq!(fleet.phase(), NodePhase::Ready);
}

#[test]
fn changed_counters_do_not_change_the_view() {
    let mut fleet = TestState::new();
    fleet.join(&link("s1"));
    assert!(fleet.report("s1", vec![status(ModelPhase::Ready, 7)]));
    assert!(!fleet.report("s1", vec![status(ModelPhase::Ready, 7)]));
    assert!(fleet.report("s1", vec![status(ModelPhase::Draining, 7)]));
}

#[test]
fn load_failure_counts_for_a_while_and_for_its_revision_only() {
    let mut fleet = TestState::new();
    fleet.join(&link("s1"));
    fleet.report("s1", vec![status(ModelPhase::Failed, 7)]);
    assert_eq!(fleet.failures(), 1);
    // Reporting it again does not renew it: otherwise it would never expire.
    fleet.now += FIRST_BACKOFF / 2;
    fleet.report("s1", vec![status(ModelPhase::Failed, 7)]);
    fleet.now += FIRST_BACKOFF / 2;
    assert!(fleet.state.expire(fleet.now));
    assert_eq!(fleet.failures(), 0);

    // The second failure counts for longer. Everybody learns of it, although the node's status is the same.
    assert!(fleet.report("s1", vec![status(ModelPhase::Failed, 7)]));
    fleet.now += FIRST_BACKOFF;
    assert!(!fleet.state.expire(fleet.now));
    assert_eq!(fleet.failures(), 1);
    let change = FleetEvent::StoreChanged(StoreChange::Put(model_entry("m", 8)));
    assert!(fleet.state.apply(change, fleet.now));
    assert_eq!(fleet.failures(), 0);
}

#[test]
fn failure_of_a_replacement_expires_although_the_replica_that_it_should_replace_answers() {
    let mut fleet = TestState::new();
    fleet.join(&link("s1"));
    let beside = ModelStatus {
        replacement: Some(Box::new(status(ModelPhase::Failed, 7))),
        ..status(ModelPhase::Ready, 6)
    };
    for _ in 0..2 {
        fleet.report("s1", vec![beside.clone()]);
        assert_eq!(fleet.failures(), 1);
        fleet.now += FIRST_BACKOFF / 2;
    }
    fleet.state.expire(fleet.now);
    assert_eq!(fleet.failures(), 0);
    fleet.report("s1", vec![status(ModelPhase::Ready, 7)]);
    fleet.report("s1", vec![beside]);
    fleet.now += FIRST_BACKOFF;
    assert!(
        fleet.state.expire(fleet.now),
        "it counts from the beginning"
    );
}

#[test]
fn node_known_only_from_the_store_is_suspect_then_lost() {
    let mut fleet = TestState::new();
    let entry = StoreEntry {
        key: keys::node(&fleet.node),
        value: serde_json::to_vec(&NodeRecord::example()).unwrap(),
        revision: StoreRevision(8),
    };
    assert!(
        fleet
            .state
            .apply(FleetEvent::StoreChanged(StoreChange::Put(entry)), fleet.now)
    );
    assert_eq!(fleet.phase(), NodePhase::Suspect);
    fleet.now += GRACE;
    assert!(fleet.state.expire(fleet.now));
    assert_eq!(fleet.phase(), NodePhase::Lost);
}

#[test]
fn entry_that_cannot_be_decoded_is_ignored_and_named_until_it_is_gone() {
    let mut fleet = TestState::new();
    let entry = StoreEntry {
        key: format!("{}models/broken", keys::ROOT),
        value: b"{}".to_vec(),
        revision: StoreRevision(9),
    };
    let key = entry.key.clone();
    assert!(
        fleet
            .state
            .apply(FleetEvent::StoreChanged(StoreChange::Put(entry)), fleet.now)
    );
    let view = fleet.state.build_view(1, fleet.now);
    assert_eq!(view.models.len(), 1);
    assert!(view.notes()[0].starts_with("models/broken is not understood"));
    let gone = StoreChange::Delete {
        key,
        revision: StoreRevision(10),
    };
    assert!(fleet.state.apply(FleetEvent::StoreChanged(gone), fleet.now));
    assert!(fleet.state.build_view(2, fleet.now).notes().is_empty());
}

#[test]
fn what_cannot_be_decoded_keeps_its_assignments_and_its_earlier_value() {
    let node = NodeName::new("n1").unwrap();
    let name = ModelName::new("m").unwrap();
    let assignment = Assignment {
        node: node.clone(),
        model: name.clone(),
    };
    let entry = |key: String, value: &[u8]| StoreEntry {
        key,
        value: value.to_vec(),
        revision: StoreRevision(8),
    };
    let assigned = serde_json::to_vec(&json!({"revision": revision(9)})).unwrap();
    let entries = || {
        snapshot(vec![
            entry(keys::model(&name), b"{}"),
            entry(keys::node(&node), b"{}"),
            entry(keys::assignment(&assignment), &assigned),
        ])
    };
    // A controller that starts.
    let now = Instant::now();
    let mut state = FleetState::new("here", GRACE);
    state.apply(entries(), now);
    let view = state.build_view(1, now);
    assert!(view.undecoded.hides_files && view.undecoded.nodes.contains(&node));
    let (model, assigned_revision) = view.assigned(&node, &name).unwrap();
    assert!(model.is_none() && assigned_revision == revision(9));
    // One that runs, and reads the store again.
    let mut fleet = TestState::new();
    fleet.join(&link("a"));
    fleet.leave("a");
    fleet.state.apply(entries(), now);
    let view = fleet.state.build_view(1, now);
    assert!(view.undecoded.models.contains_key(&name) && view.undecoded.nodes.is_empty());
    let (model, assigned_revision) = view.assigned(&node, &name).unwrap();
    let model = model.expect("the earlier value is kept");
    assert_eq!(model.endpoints.revisions.desired, revision(7));
    assert!(assigned_revision == revision(9) && model.at_revision(revision(9)).is_none());
    assert!(view.nodes.contains_key(&node));
    // It is gone from the store.
    fleet.state.apply(snapshot(vec![]), now);
    let view = fleet.state.build_view(2, now);
    assert!(view.models.is_empty() && view.nodes.is_empty());
    assert!(view.undecoded.models.is_empty() && !view.undecoded.hides_files);
}

#[test]
fn controller_that_starts_beside_entries_of_a_later_version_keeps_what_runs() {
    let node = NodeName::new("n1").unwrap();
    let name = ModelName::new("m").unwrap();
    let assignment = Assignment {
        node: node.clone(),
        model: name.clone(),
    };
    let entry = |key: String, value: Vec<u8>| StoreEntry {
        key,
        value,
        revision: StoreRevision(8),
    };
    let resource: DesiredRecord = serde_json::from_slice(&model_entry("m", 7).value).unwrap();
    let stable = json!({"resource": resource.resource, "manifest": null});
    let stable = entry(
        keys::stable_revision(&name),
        serde_json::to_vec(&stable).unwrap(),
    );
    let unreadable = || {
        vec![
            entry(keys::model(&name), b"{}".to_vec()),
            entry(keys::assignment(&assignment), b"[]".to_vec()),
        ]
    };
    for with_stable in [true, false] {
        let mut fleet = TestState::new();
        fleet.state = FleetState::new("here", GRACE);
        let mut entries = unreadable();
        entries.extend(with_stable.then(|| stable.clone()));
        fleet.state.apply(snapshot(entries), fleet.now);
        fleet.join(&link("a"));
        fleet.report("a", vec![status(ModelPhase::Ready, 7)]);
        let view = fleet.state.build_view(1, fleet.now);
        // The node goes on with what it runs, and requests are answered from the stable revision.
        assert!(view.nodes[&node].assigned.contains(&name));
        let (model, assigned) = view.assigned(&node, &name).unwrap();
        assert_eq!((model.is_some(), assigned), (with_stable, revision(7)));
        if let Some(model) = model {
            assert_eq!(model.endpoints.revisions.desired, revision(7));
        }
        assert!(view.undecoded.models.contains_key(&name));
        for entry in unreadable() {
            assert!(view.undecoded.keys.contains(&entry.key));
            let (_, named) = entry.key.split_at(keys::ROOT.len());
            assert!(view.notes().iter().any(|note| note.contains(named)));
        }
    }
}

#[test]
fn node_that_leaves_before_it_was_stored_is_forgotten() {
    let mut fleet = TestState::new();
    fleet.join(&link("a"));
    let node = fleet.state.nodes.get_mut(&fleet.node).unwrap();
    node.stored_record = None;
    assert!(fleet.leave("a"));
    assert!(fleet.state.nodes.is_empty());
}

#[test]
fn no_replica_is_expected_when_changes_are_not_possible_for_long() {
    let mut fleet = TestState::new();
    fleet.join(&link("s1"));
    fleet.report("s1", vec![]);
    let is_coming = |fleet: &mut TestState| {
        let view = fleet.state.build_view(1, fleet.now);
        view.models["m"].endpoints.coming
    };
    let full = FleetEvent::ChangesBlocked(Some("full".into()));
    assert!(fleet.state.apply(full, fleet.now));
    assert!(is_coming(&mut fleet));
    assert!(!fleet.state.build_view(1, fleet.now).is_writable());
    fleet.now += CHANGE_PATIENCE;
    assert_eq!(fleet.state.next_deadline(), Some(fleet.now));
    assert!(fleet.state.expire(fleet.now));
    assert!(!is_coming(&mut fleet));
    assert!(
        fleet
            .state
            .apply(FleetEvent::ChangesBlocked(None), fleet.now)
    );
    assert!(is_coming(&mut fleet));
    assert!(fleet.state.build_view(1, fleet.now).is_writable());
}

#[test]
fn kept_state_counts_only_until_the_store_was_read() {
    let now = Instant::now();
    let mut state = FleetState::new("here", GRACE);
    let kept = |name| FleetEvent::KeptState {
        entries: vec![model_entry(name, 7)],
        revision: StoreRevision(7),
        saved_at: 1,
    };
    assert!(state.apply(FleetEvent::StoreUnavailable("away".into()), now));
    assert!(state.apply(kept("m"), now));
    let view = state.build_view(1, now);
    assert!(view.synced && view.store_error.is_some() && view.models.contains_key("m"));
    assert!(
        view.notes()[0].contains("1970-01-01T00:00:01Z"),
        "{:?}",
        view.notes()
    );
    assert!(state.apply(snapshot(vec![model_entry("other", 7)]), now));
    assert!(!state.apply(kept("m"), now));
    let view = state.build_view(2, now);
    assert!(view.kept_since.is_none() && !view.models.contains_key("m"));
}

fn put(key: String, value: &serde_json::Value, revision: u64) -> FleetEvent {
    FleetEvent::StoreChanged(StoreChange::Put(StoreEntry {
        key,
        value: serde_json::to_vec(value).unwrap(),
        revision: StoreRevision(revision),
    }))
}

#[test]
fn node_linked_to_another_controller_is_ready_but_not_used_from_here() {
    let mut fleet = TestState::new();
    fleet.join(&link("s1"));
    fleet.report("s1", vec![]);
    let link_key = keys::link(&fleet.node, "other");
    fleet
        .state
        .apply(put(link_key.clone(), &json!({}), 8), fleet.now);
    assert!(fleet.leave("s1"));
    assert_eq!(fleet.phase(), NodePhase::Ready);
    assert!(!fleet.state.build_view(1, fleet.now).nodes[&fleet.node].linked_locally);
    let gone = StoreChange::Delete {
        key: link_key,
        revision: StoreRevision(9),
    };
    assert!(fleet.state.apply(FleetEvent::StoreChanged(gone), fleet.now));
    assert_eq!(fleet.phase(), NodePhase::Suspect);
    // A controller ignores the links that it published itself.
    let own = keys::link(&fleet.node, "here");
    assert!(!fleet.state.apply(put(own, &json!({}), 10), fleet.now));
    assert_eq!(fleet.phase(), NodePhase::Suspect);
}

#[test]
fn no_node_is_lost_while_the_store_is_unavailable_and_grace_restarts_afterwards() {
    let mut fleet = TestState::new();
    fleet.join(&link("s1"));
    fleet.report("s1", vec![]);
    let away = FleetEvent::StoreUnavailable("etcd is away".into());
    assert!(fleet.state.apply(away, fleet.now));
    fleet.leave("s1");
    fleet.now += GRACE * 10;
    // Only that no replica is expected any more.
    assert!(fleet.state.expire(fleet.now));
    assert_eq!(fleet.state.next_deadline(), None);
    assert!(!fleet.state.expire(fleet.now));
    assert_eq!(fleet.phase(), NodePhase::Suspect);
    let view = fleet.state.build_view(1, fleet.now);
    assert_eq!(view.store_error.as_deref(), Some("etcd is away"));
    assert!(fleet.state.apply(FleetEvent::StoreAvailable, fleet.now));
    assert_eq!(fleet.state.next_deadline(), Some(fleet.now + GRACE));
    assert_eq!(fleet.phase(), NodePhase::Suspect);
    fleet.now += GRACE;
    assert!(fleet.state.expire(fleet.now));
    assert_eq!(fleet.phase(), NodePhase::Lost);
}

#[test]
fn desired_revision_of_a_node_is_that_of_the_last_change_that_concerns_it() {
    let mut fleet = TestState::new();
    fleet.join(&link("s1"));
    let touched = |fleet: &mut TestState| {
        fleet.state.build_view(1, fleet.now).nodes[&fleet.node].desired_revision
    };
    let assignment = Assignment {
        node: fleet.node.clone(),
        model: ModelName::new("m").unwrap(),
    };
    let other = Assignment {
        node: NodeName::new("n2").unwrap(),
        ..assignment.clone()
    };
    let assigned = json!({"revision": revision(7)});
    fleet
        .state
        .apply(put(keys::assignment(&assignment), &assigned, 11), fleet.now);
    assert_eq!(touched(&mut fleet), StoreRevision(11));
    fleet
        .state
        .apply(put(keys::assignment(&other), &assigned, 12), fleet.now);
    assert_eq!(touched(&mut fleet), StoreRevision(11));
    let mut changed = model_entry("m", 8);
    changed.revision = StoreRevision(13);
    fleet.state.apply(
        FleetEvent::StoreChanged(StoreChange::Put(changed)),
        fleet.now,
    );
    assert_eq!(touched(&mut fleet), StoreRevision(13));
    let gone = StoreChange::Delete {
        key: keys::assignment(&assignment),
        revision: StoreRevision(14),
    };
    fleet.state.apply(FleetEvent::StoreChanged(gone), fleet.now);
    assert_eq!(touched(&mut fleet), StoreRevision(14));
}

#[test]
fn replica_is_expected_while_a_node_can_load_the_model() {
    let mut fleet = TestState::new();
    let coming = |fleet: &mut TestState| {
        fleet.state.build_view(1, fleet.now).models["m"]
            .endpoints
            .coming
    };
    assert!(!coming(&mut fleet), "there is no node");
    fleet.join(&link("s1"));
    assert!(coming(&mut fleet), "it will be placed");
    let assignment = Assignment {
        node: fleet.node.clone(),
        model: ModelName::new("m").unwrap(),
    };
    let assigned = json!({"revision": revision(7)});
    fleet
        .state
        .apply(put(keys::assignment(&assignment), &assigned, 11), fleet.now);
    assert!(coming(&mut fleet));
    fleet.report("s1", vec![status(ModelPhase::Failed, 7)]);
    assert!(!coming(&mut fleet));
    fleet.report("s1", vec![status(ModelPhase::Loading, 7)]);
    fleet.now += FIRST_BACKOFF;
    fleet.state.expire(fleet.now);
    assert!(coming(&mut fleet));
    fleet.leave("s1");
    assert!(coming(&mut fleet), "it may return");
    fleet.now += GRACE;
    fleet.state.expire(fleet.now);
    assert!(!coming(&mut fleet));
}

#[test]
fn memory_reported_by_a_node_is_known_for_the_model() {
    let mut fleet = TestState::new();
    fleet.join(&link("s1"));
    let memory = |fleet: &mut TestState| {
        let memory = fleet.state.build_view(1, fleet.now).models["m"].memory;
        (
            memory.host.map(|bytes| bytes.0),
            memory.device.map(|bytes| bytes.0),
        )
    };
    assert_eq!(memory(&mut fleet), (None, None));
    let mut refused = status(ModelPhase::Failed, 7);
    refused.required_memory_bytes = 70;
    fleet.report("s1", vec![refused]);
    assert_eq!(memory(&mut fleet), (Some(70), Some(70)));
    let mut ready = status(ModelPhase::Ready, 7);
    ready.memory_bytes = 80;
    fleet.report("s1", vec![ready.clone()]);
    assert_eq!(memory(&mut fleet), (Some(80), Some(80)));
    // What it takes of an accelerator's memory is another number.
    ready.memory_bytes = 50;
    ready.on_device = true;
    fleet.report("s1", vec![ready.clone()]);
    assert_eq!(memory(&mut fleet), (Some(80), Some(50)));
    ready.memory_bytes = 90;
    ready.on_device = false;
    fleet.report("s1", vec![ready]);
    assert_eq!(memory(&mut fleet), (Some(90), Some(50)));
}

impl TestState {
    /// The node `name` joins, is assigned `m`, and reports that it serves it.
    fn serve_on(&mut self, name: &str) {
        self.node = NodeName::new(name).unwrap();
        let assignment = Assignment {
            node: self.node.clone(),
            model: ModelName::new("m").unwrap(),
        };
        let assigned = put(keys::assignment(&assignment), &json!({"revision": 7}), 8);
        self.state.apply(assigned, self.now);
        let session = format!("session of {name} at {:?}", self.now);
        self.join(&link(&session));
        self.report(&session, vec![status(ModelPhase::Ready, 7)]);
    }

    /// The nodes lose their links, and their grace passes.
    fn lose(&mut self, names: &[&str]) {
        for name in names {
            self.node = NodeName::new(name).unwrap();
            let session = self.state.nodes[&self.node].link().unwrap().session.clone();
            self.leave(&session.0);
        }
        self.now += GRACE;
        self.state.expire(self.now);
    }

    /// Whether each node of the view is lost, and whether its models are placed elsewhere.
    fn lost_and_given_up(&mut self) -> Vec<(bool, bool)> {
        let view = self.state.build_view(1, self.now);
        let nodes = view.nodes.values();
        nodes
            .map(|node| (node.phase == NodePhase::Lost, node.is_given_up()))
            .collect()
    }
}

#[test]
fn nodes_keep_their_models_when_too_many_are_lost_at_once() {
    let mut fleet = TestState::new();
    for name in ["n1", "n2", "n3", "n4"] {
        fleet.serve_on(name);
    }
    fleet.lose(&["n1", "n2", "n3"]);
    let held = (true, false);
    assert_eq!(fleet.lost_and_given_up()[..3], [held, held, held]);
    let view = fleet.state.build_view(1, fleet.now);
    assert!(view.dispatch_view().readiness.notes[0].contains("3 of 4 nodes"));
    // They are given up one by one, and the state says when that is due.
    let due = fleet.state.next_deadline().unwrap();
    assert!(due > fleet.now);
    fleet.now = due;
    assert!(fleet.state.expire(fleet.now));
    let given_up = fleet.lost_and_given_up();
    assert_eq!(given_up.iter().filter(|node| node.1).count(), 1);
    // Those that return have no hold any more.
    for name in ["n1", "n2", "n3"] {
        fleet.serve_on(name);
    }
    assert_eq!(fleet.lost_and_given_up(), [(false, false); 4]);
    assert_eq!(fleet.state.build_view(1, fleet.now).placement_hold, None);
}

#[test]
fn failure_right_after_a_restart_is_not_held_up_by_nodes_that_were_given_up_before() {
    let nodes = ["n1", "n2", "n3", "n4", "n5", "n6"];
    for dead in [0, 4] {
        // As a controller sees them that has started while none of them is connected.
        let mut fleet = TestState::new();
        for name in nodes {
            fleet.serve_on(name);
        }
        for name in &nodes[..dead] {
            let key = keys::given_up(&NodeName::new(name).unwrap());
            fleet.state.apply(put(key, &json!({}), 8), fleet.now);
        }
        fleet.lose(&nodes);
        assert_eq!(fleet.lost_and_given_up(), [(true, dead > 0); 6]);
    }
}

#[test]
fn first_node_back_after_all_were_lost_does_not_take_over_the_models_of_the_others() {
    let mut fleet = TestState::new();
    fleet.serve_on("n1");
    fleet.serve_on("n2");
    fleet.lose(&["n1", "n2"]);
    assert_eq!(fleet.lost_and_given_up(), [(true, true); 2]);
    fleet.now += Duration::from_secs(60);
    fleet.serve_on("n1");
    assert_eq!(fleet.lost_and_given_up(), [(false, false); 2]);
    fleet.now += GRACE;
    fleet.state.expire(fleet.now);
    assert_eq!(fleet.lost_and_given_up(), [(false, false), (true, true)]);
}

#[test]
fn replica_is_known_only_from_a_report_over_a_link_that_is_up() {
    let mut fleet = TestState::new();
    let model = ModelName::new("m").unwrap();
    let readiness = |fleet: &mut TestState| {
        fleet.state.build_view(1, fleet.now).nodes[&fleet.node].replica_readiness(&model)
    };
    fleet.join(&link("s1"));
    assert_eq!(readiness(&mut fleet), ReplicaReadiness::Unknown);
    fleet.report("s1", vec![]);
    assert_eq!(readiness(&mut fleet), ReplicaReadiness::NotReady);
    fleet.report("s1", vec![status(ModelPhase::Ready, 7)]);
    assert_eq!(readiness(&mut fleet), ReplicaReadiness::Ready(revision(7)));
    let remote = put(keys::link(&fleet.node, "other"), &json!({}), 8);
    fleet.state.apply(remote, fleet.now);
    fleet.leave("s1");
    assert_eq!(fleet.phase(), NodePhase::Ready);
    assert_eq!(readiness(&mut fleet), ReplicaReadiness::Unknown);
    // Nothing waits for ever for a node that never links to this controller.
    fleet.now = fleet.state.next_deadline().unwrap();
    assert!(fleet.state.expire(fleet.now));
    assert_eq!(fleet.phase(), NodePhase::Ready);
    assert_eq!(readiness(&mut fleet), ReplicaReadiness::Unreachable);
    let notes = fleet.state.build_view(1, fleet.now).notes();
    assert!(notes[0].contains("has not heard from n1"), "{notes:?}");
    fleet.join(&link("s2"));
    fleet.report("s2", vec![]);
    assert_eq!(readiness(&mut fleet), ReplicaReadiness::NotReady);
    assert_eq!(fleet.state.next_deadline(), None);
}

/// A session of a process that dialled from this address.
fn link_from(session: &str, process: &str) -> Arc<NodeLink> {
    let node = NodeName::new("n1").unwrap();
    let peer = LinkRecord {
        process: process.into(),
        address: "10.0.0.1:1".into(),
    };
    let closed = CancellationToken::new();
    Arc::new(NodeLink::new(node, SessionId(session.into()), peer, closed))
}

#[test]
fn of_two_copies_of_a_machine_at_two_controllers_one_is_closed() {
    for (other, is_closed) in [("a", true), ("z", false)] {
        let mut fleet = TestState::new();
        let local = link_from("s1", "first");
        fleet.join(&local);
        fleet.report("s1", vec![]);
        let link = json!({"process": "first", "address": "10.0.0.1:2"});
        let same = put(keys::link(&fleet.node, other), &link, 8);
        fleet.state.apply(same, fleet.now);
        assert!(!local.closed.is_cancelled(), "the same process");
        let link = json!({"process": "second", "address": "10.0.0.2:1"});
        let copy = put(keys::link(&fleet.node, other), &link, 9);
        assert!(fleet.state.apply(copy, fleet.now));
        assert_eq!(local.closed.is_cancelled(), is_closed, "{other}");
        let view = fleet.state.build_view(1, fleet.now);
        assert_eq!(view.refusals.len(), usize::from(is_closed));
        assert_eq!(view.nodes["n1"].remote_links[other].process, "second");
    }
}

#[test]
fn what_a_controller_knows_is_as_new_as_what_its_node_follows_once_it_has_read_as_far() {
    let mut fleet = TestState::new();
    fleet.join(&link("s1"));
    let follow = |fleet: &mut TestState, epoch, revision| {
        let status = ReportedStatus {
            followed: StateVersion {
                epoch,
                revision: StoreRevision(revision),
            },
            ..ReportedStatus::default()
        };
        let event = FleetEvent::NodeReported {
            node: fleet.node.clone(),
            session: SessionId("s1".into()),
            status,
        };
        fleet.state.apply(event, fleet.now);
        fleet.state.nodes[&fleet.node].desired_revision
    };
    assert_eq!(follow(&mut fleet, 0, 5), StoreRevision(5));
    assert_eq!(follow(&mut fleet, 0, 99), StoreRevision(5), "not read yet");
    assert_eq!(follow(&mut fleet, 1, 6), StoreRevision(5), "another epoch");
}

#[test]
fn fleet_that_the_store_has_lost_is_served_until_it_is_restored_as_a_whole() {
    let mut fleet = TestState::new();
    fleet.join(&link("s1"));
    let id = |id: &str, revision| {
        FleetEvent::StoreChanged(StoreChange::Put(StoreEntry {
            key: keys::FLEET_ID.into(),
            value: id.into(),
            revision: StoreRevision(revision),
        }))
    };
    fleet.state.apply(id("f", 8), fleet.now);
    let shown = |fleet: &mut TestState| {
        let view = fleet.state.build_view(1, fleet.now);
        let models: Vec<_> = view.models.keys().map(ToString::to_string).collect();
        (view.fleet_id.clone(), models, view.is_of_store())
    };
    let served = |id: Option<&str>, models: &[&str], of_store| {
        let models = models.iter().map(|name| (*name).to_owned()).collect();
        (id.map(str::to_owned), models, of_store)
    };
    assert_eq!(shown(&mut fleet), served(Some("f"), &["m"], true));
    // Nothing is sent to nodes under the earlier id, and nothing is planned.
    fleet.state.apply(snapshot(vec![]), fleet.now);
    assert_eq!(shown(&mut fleet), served(None, &["m"], false));
    // Who lives now counts at once, what is restored only with the fleet's id.
    let other = put(keys::link(&fleet.node, "other"), &json!({}), 9);
    assert!(fleet.state.apply(other, fleet.now));
    let view = fleet.state.build_view(1, fleet.now);
    assert!(view.nodes["n1"].remote_links.contains_key("other"));
    let mut restored = model_entry("restored", 7);
    restored.revision = StoreRevision(10);
    let restored = FleetEvent::StoreChanged(StoreChange::Put(restored));
    assert!(!fleet.state.apply(restored, fleet.now));
    assert_eq!(shown(&mut fleet), served(None, &["m"], false));
    assert_eq!(fleet.state.store_revision(), StoreRevision(10));
    assert!(fleet.state.apply(id("f", 11), fleet.now));
    assert_eq!(shown(&mut fleet), served(Some("f"), &["restored"], true));
    // A snapshot of the fleet that is put back counts at once as well.
    fleet.state.apply(snapshot(vec![]), fleet.now);
    let mut entries = vec![model_entry("back", 7)];
    entries.push(StoreEntry {
        key: keys::FLEET_ID.into(),
        value: b"f".to_vec(),
        revision: StoreRevision(7),
    });
    fleet.state.apply(snapshot(entries), fleet.now);
    assert_eq!(shown(&mut fleet), served(Some("f"), &["back"], true));
}

#[test]
fn fleet_that_the_store_has_lost_is_named_until_it_is_back() {
    let put = |id: &str| {
        StoreChange::Put(StoreEntry {
            key: keys::FLEET_ID.into(),
            value: id.into(),
            revision: StoreRevision(8),
        })
    };
    let mut fleet = TestState::new();
    let note = |fleet: &mut TestState| {
        let notes = fleet.state.build_view(1, fleet.now).notes();
        notes.into_iter().find(|note| note.contains("'f'"))
    };
    fleet
        .state
        .apply(FleetEvent::StoreChanged(put("f")), fleet.now);
    assert_eq!(note(&mut fleet), None);
    fleet.state.apply(snapshot(vec![]), fleet.now);
    assert!(note(&mut fleet).unwrap().contains("EMPTY"));
    fleet
        .state
        .apply(FleetEvent::StoreChanged(put("g")), fleet.now);
    assert!(
        note(&mut fleet)
            .unwrap()
            .contains("the store has the fleet 'g'")
    );
    fleet
        .state
        .apply(FleetEvent::StoreChanged(put("f")), fleet.now);
    assert_eq!(note(&mut fleet), None);
    // A controller that starts knows from its disk what it belonged to.
    fleet.state = FleetState::new("here", GRACE);
    fleet
        .state
        .apply(FleetEvent::EarlierFleet("f".into()), fleet.now);
    fleet.state.apply(snapshot(vec![]), fleet.now);
    assert!(note(&mut fleet).unwrap().contains("EMPTY"));
}

#[test]
fn node_with_an_impossible_epoch_is_named() {
    let mut fleet = TestState::new();
    fleet.join(&link("s"));
    let mut follow = |epoch| {
        let status = ReportedStatus {
            followed: StateVersion {
                epoch,
                revision: StoreRevision(1),
            },
            ..ReportedStatus::default()
        };
        let event = FleetEvent::NodeReported {
            node: fleet.node.clone(),
            session: SessionId("s".into()),
            status,
        };
        assert!(fleet.state.apply(event, fleet.now));
        fleet.state.build_view(1, fleet.now)
    };
    let view = follow(u64::MAX);
    assert_eq!(view.impossible_epochs.len(), 1);
    assert!(
        view.notes()[0].contains("the node 'n1'"),
        "{:?}",
        view.notes()
    );
    assert!(follow(1).impossible_epochs.is_empty());
}
