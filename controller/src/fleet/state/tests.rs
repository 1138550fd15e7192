use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fleet::NodePhase;
use crate::fleet::failures::FIRST_PAUSE;

const GRACE: Duration = Duration::from_secs(5);

fn record() -> NodeRecord {
    NodeRecord {
        identity: "i".into(),
        labels: BTreeMap::new(),
        taints: Vec::new(),
        zone: None,
        accelerators: Vec::new(),
        memory: Bytes(1 << 30),
        cores: 2,
        cpu: "test".into(),
        platform: "test".into(),
        version: "0".into(),
        power: None,
    }
}

fn link(session: &str) -> Arc<NodeLink> {
    let node = NodeName::new("n1").unwrap();
    let session = SessionId(session.into());
    Arc::new(NodeLink::new(node, session, CancellationToken::new()))
}

/// A model as the store holds it; `queue` makes one serving revision differ from another.
fn model_entry(name: &str, queue: u32) -> StoreEntry {
    let resource = json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model",
        "metadata": {"name": name}, "spec": {"engine": null, "queue": queue},
    });
    StoreEntry {
        key: format!("{}models/{name}", keys::ROOT),
        value: serde_json::to_vec(&json!({"created": 1, "resource": resource})).unwrap(),
        revision: StoreRevision(u64::from(queue)),
    }
}

/// The serving revision of such a model.
fn revision(queue: u32) -> ModelRevision {
    let record: DesiredRecord = decode(&model_entry("m", queue).value).unwrap();
    let model: Model = records::resource(record.resource).unwrap();
    model.serving_revision()
}

fn status(phase: ModelPhase, queue: u32) -> ModelStatus {
    ModelStatus {
        name: "m".into(),
        revision: revision(queue).0,
        phase: phase.into(),
        problem: "no file".into(),
        ..ModelStatus::default()
    }
}

fn stored(entries: Vec<StoreEntry>) -> FleetEvent {
    FleetEvent::Stored {
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
        state.apply(stored(vec![model_entry("m", 7)]), now);
        Self {
            state,
            now,
            node: NodeName::new("n1").unwrap(),
        }
    }

    fn join(&mut self, link: &Arc<NodeLink>) {
        let event = FleetEvent::Joined {
            node: self.node.clone(),
            record: record(),
            link: link.clone(),
        };
        self.state.apply(event, self.now);
    }

    fn report(&mut self, session: &str, models: Vec<ModelStatus>) -> bool {
        let event = FleetEvent::Reported {
            node: self.node.clone(),
            session: SessionId(session.into()),
            models,
            energy: None,
        };
        self.state.apply(event, self.now)
    }

    fn leave(&mut self, session: &str) -> bool {
        let event = FleetEvent::Left {
            node: self.node.clone(),
            session: SessionId(session.into()),
        };
        self.state.apply(event, self.now)
    }

    fn phase(&mut self) -> NodePhase {
        self.state.view(1, self.now).nodes[&self.node].phase
    }

    fn failures(&mut self) -> usize {
        self.state.view(1, self.now).models["m"].failures.len()
    }
}

#[test]
fn a_node_is_ready_from_its_first_report_until_it_leaves() {
    let mut bench = TestState::new();
    bench.join(&link("s1"));
    assert_eq!(bench.phase(), NodePhase::Joining);
    assert!(bench.report("s1", vec![]));
    assert_eq!(bench.phase(), NodePhase::Ready);
    assert!(bench.leave("s1"));
    assert_eq!(bench.phase(), NodePhase::Suspect);
    assert_eq!(bench.state.next_deadline(), Some(bench.now + GRACE));
    assert!(!bench.state.expire(bench.now));
    bench.now += GRACE;
    assert!(bench.state.expire(bench.now));
    assert_eq!(bench.phase(), NodePhase::Lost);
    assert_eq!(bench.state.next_deadline(), None);
}

#[test]
fn a_new_session_replaces_the_old_one_whose_end_is_no_news() {
    let mut bench = TestState::new();
    let (old, new) = (link("s1"), link("s2"));
    bench.join(&old);
    bench.join(&new);
    assert!(old.closed.is_cancelled() && !new.closed.is_cancelled());
    assert!(!bench.report("s1", vec![]));
    assert!(!bench.leave("s1"));
    assert!(bench.report("s2", vec![]));
    assert_eq!(bench.phase(), NodePhase::Ready);
}

#[test]
fn counters_alone_make_no_new_view() {
    let mut bench = TestState::new();
    bench.join(&link("s1"));
    assert!(bench.report("s1", vec![status(ModelPhase::Ready, 7)]));
    assert!(!bench.report("s1", vec![status(ModelPhase::Ready, 7)]));
    assert!(bench.report("s1", vec![status(ModelPhase::Draining, 7)]));
}

#[test]
fn a_failure_is_remembered_for_a_while_and_for_its_revision_only() {
    let mut bench = TestState::new();
    bench.join(&link("s1"));
    bench.report("s1", vec![status(ModelPhase::Failed, 7)]);
    assert_eq!(bench.failures(), 1);
    // Reported again it is not renewed, or it would never be tried again.
    bench.now += FIRST_PAUSE / 2;
    bench.report("s1", vec![status(ModelPhase::Failed, 7)]);
    bench.now += FIRST_PAUSE / 2;
    assert!(bench.state.expire(bench.now));
    assert_eq!(bench.failures(), 0);

    // The second failure counts for longer.
    bench.report("s1", vec![status(ModelPhase::Failed, 7)]);
    bench.now += FIRST_PAUSE;
    assert!(!bench.state.expire(bench.now));
    assert_eq!(bench.failures(), 1);
    let change = FleetEvent::Changed(StoreChange::Put(model_entry("m", 8)));
    assert!(bench.state.apply(change, bench.now));
    assert_eq!(bench.failures(), 0);
}

#[test]
fn a_node_known_only_from_the_store_is_suspect_then_lost() {
    let mut bench = TestState::new();
    let entry = StoreEntry {
        key: keys::node(&bench.node),
        value: serde_json::to_vec(&record()).unwrap(),
        revision: StoreRevision(8),
    };
    assert!(
        bench
            .state
            .apply(FleetEvent::Changed(StoreChange::Put(entry)), bench.now)
    );
    assert_eq!(bench.phase(), NodePhase::Suspect);
    bench.now += GRACE;
    assert!(bench.state.expire(bench.now));
    assert_eq!(bench.phase(), NodePhase::Lost);
}

#[test]
fn what_the_store_holds_of_later_versions_is_left_alone() {
    let mut bench = TestState::new();
    let entry = StoreEntry {
        key: format!("{}models/broken", keys::ROOT),
        value: b"{}".to_vec(),
        revision: StoreRevision(9),
    };
    assert!(
        !bench
            .state
            .apply(FleetEvent::Changed(StoreChange::Put(entry)), bench.now)
    );
}

fn put(key: String, value: &serde_json::Value, revision: u64) -> FleetEvent {
    FleetEvent::Changed(StoreChange::Put(StoreEntry {
        key,
        value: serde_json::to_vec(value).unwrap(),
        revision: StoreRevision(revision),
    }))
}

#[test]
fn a_node_that_another_controller_holds_is_there_but_not_asked_from_here() {
    let mut bench = TestState::new();
    bench.join(&link("s1"));
    bench.report("s1", vec![]);
    let presence = keys::link(&bench.node, "other");
    bench
        .state
        .apply(put(presence.clone(), &json!({}), 8), bench.now);
    assert!(bench.leave("s1"));
    assert_eq!(bench.phase(), NodePhase::Ready);
    assert!(!bench.state.view(1, bench.now).nodes[&bench.node].here);
    let gone = StoreChange::Delete {
        key: presence,
        revision: StoreRevision(9),
    };
    assert!(bench.state.apply(FleetEvent::Changed(gone), bench.now));
    assert_eq!(bench.phase(), NodePhase::Suspect);
    // Its own word about the node is no news to a controller.
    let own = keys::link(&bench.node, "here");
    assert!(!bench.state.apply(put(own, &json!({}), 10), bench.now));
    assert_eq!(bench.phase(), NodePhase::Suspect);
}

#[test]
fn while_the_store_is_away_no_node_is_lost_and_afterwards_each_has_its_grace() {
    let mut bench = TestState::new();
    bench.join(&link("s1"));
    bench.report("s1", vec![]);
    let away = FleetEvent::StoreAway("etcd is away".into());
    assert!(bench.state.apply(away, bench.now));
    bench.leave("s1");
    bench.now += GRACE * 10;
    assert_eq!(bench.state.next_deadline(), None);
    assert!(!bench.state.expire(bench.now));
    let view = bench.state.view(1, bench.now);
    assert_eq!(view.store_problem.as_deref(), Some("etcd is away"));
    assert!(bench.state.apply(FleetEvent::StoreBack, bench.now));
    assert_eq!(bench.state.next_deadline(), Some(bench.now + GRACE));
    assert_eq!(bench.phase(), NodePhase::Suspect);
    bench.now += GRACE;
    assert!(bench.state.expire(bench.now));
    assert_eq!(bench.phase(), NodePhase::Lost);
}

#[test]
fn what_a_node_should_run_has_the_revision_of_the_last_change_about_it() {
    let mut bench = TestState::new();
    bench.join(&link("s1"));
    let touched = |bench: &mut TestState| bench.state.view(1, bench.now).nodes[&bench.node].touched;
    let assignment = Assignment {
        node: bench.node.clone(),
        model: ModelName::new("m").unwrap(),
    };
    let other = Assignment {
        node: NodeName::new("n2").unwrap(),
        ..assignment.clone()
    };
    let assigned = json!({"revision": revision(7)});
    bench
        .state
        .apply(put(keys::assignment(&assignment), &assigned, 11), bench.now);
    assert_eq!(touched(&mut bench), StoreRevision(11));
    bench
        .state
        .apply(put(keys::assignment(&other), &assigned, 12), bench.now);
    assert_eq!(touched(&mut bench), StoreRevision(11));
    let mut changed = model_entry("m", 8);
    changed.revision = StoreRevision(13);
    bench
        .state
        .apply(FleetEvent::Changed(StoreChange::Put(changed)), bench.now);
    assert_eq!(touched(&mut bench), StoreRevision(13));
    let gone = StoreChange::Delete {
        key: keys::assignment(&assignment),
        revision: StoreRevision(14),
    };
    bench.state.apply(FleetEvent::Changed(gone), bench.now);
    assert_eq!(touched(&mut bench), StoreRevision(14));
}

#[test]
fn a_model_is_coming_while_a_node_that_is_there_works_on_it() {
    let mut bench = TestState::new();
    let coming = |bench: &mut TestState| bench.state.view(1, bench.now).models["m"].coming;
    assert!(!coming(&mut bench), "there is no node");
    bench.join(&link("s1"));
    assert!(coming(&mut bench), "it is about to be placed");
    let assignment = Assignment {
        node: bench.node.clone(),
        model: ModelName::new("m").unwrap(),
    };
    let assigned = json!({"revision": revision(7)});
    bench
        .state
        .apply(put(keys::assignment(&assignment), &assigned, 11), bench.now);
    assert!(coming(&mut bench));
    bench.report("s1", vec![status(ModelPhase::Failed, 7)]);
    assert!(!coming(&mut bench));
    bench.report("s1", vec![status(ModelPhase::Loading, 7)]);
    bench.now += FIRST_PAUSE;
    bench.state.expire(bench.now);
    assert!(coming(&mut bench));
    bench.leave("s1");
    assert!(coming(&mut bench), "it may return");
    bench.now += GRACE;
    bench.state.expire(bench.now);
    assert!(!coming(&mut bench));
}

#[test]
fn memory_that_a_node_found_is_known_for_the_model() {
    let mut bench = TestState::new();
    bench.join(&link("s1"));
    let memory = |bench: &mut TestState| bench.state.view(1, bench.now).models["m"].memory;
    assert_eq!(memory(&mut bench), None);
    let mut refused = status(ModelPhase::Failed, 7);
    refused.memory_needed = 70;
    bench.report("s1", vec![refused]);
    assert_eq!(memory(&mut bench), Some(Bytes(70)));
    let mut ready = status(ModelPhase::Ready, 7);
    ready.memory = 80;
    bench.report("s1", vec![ready]);
    assert_eq!(memory(&mut bench), Some(Bytes(80)));
}
