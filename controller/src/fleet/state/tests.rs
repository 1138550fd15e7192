use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;

const GRACE: Duration = Duration::from_secs(5);

fn record() -> NodeRecord {
    NodeRecord {
        identity: "i".into(),
        labels: BTreeMap::new(),
        memory: Bytes(1 << 30),
        cores: 2,
        cpu: "test".into(),
        platform: "test".into(),
        version: "0".into(),
    }
}

fn link(session: &str) -> Arc<Link> {
    let node = NodeName::new("n1").unwrap();
    let session = SessionId(session.into());
    Arc::new(Link::new(node, session, CancellationToken::new()))
}

/// A model as the store holds it; `queue` makes one serving revision differ from another.
fn model_entry(name: &str, queue: u32) -> Entry {
    let resource = json!({
        "apiVersion": "flotilla/v1", "kind": "Model",
        "metadata": {"name": name}, "spec": {"engine": null, "queue": queue},
    });
    Entry {
        key: format!("{}models/{name}", keys::ROOT),
        value: serde_json::to_vec(&json!({"created": 1, "resource": resource})).unwrap(),
        revision: u64::from(queue),
    }
}

fn status(phase: ModelPhase, queue: u32) -> ModelStatus {
    ModelStatus {
        name: "m".into(),
        revision: read_model(&model_entry("m", queue)).unwrap().revision,
        phase: phase.into(),
        problem: "no file".into(),
        ..ModelStatus::default()
    }
}

struct Bench {
    state: FleetState,
    now: Instant,
    node: NodeName,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let mut state = FleetState::new(GRACE, now);
        state.apply(FleetEvent::Stored(vec![model_entry("m", 7)]), now);
        Self {
            state,
            now,
            node: NodeName::new("n1").unwrap(),
        }
    }

    fn join(&mut self, link: &Arc<Link>) {
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
        self.state.view(1).nodes[&self.node].phase
    }

    fn failures(&mut self) -> usize {
        self.state.view(1).models["m"].failures.len()
    }
}

#[test]
fn a_node_is_ready_from_its_first_report_until_it_leaves() {
    let mut bench = Bench::new();
    bench.join(&link("s1"));
    assert_eq!(bench.phase(), NodePhase::Suspect);
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
    let mut bench = Bench::new();
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
    let mut bench = Bench::new();
    bench.join(&link("s1"));
    assert!(bench.report("s1", vec![status(ModelPhase::Ready, 7)]));
    assert!(!bench.report("s1", vec![status(ModelPhase::Ready, 7)]));
    assert!(bench.report("s1", vec![status(ModelPhase::Draining, 7)]));
}

#[test]
fn a_failure_is_remembered_for_a_while_and_for_its_revision_only() {
    let mut bench = Bench::new();
    bench.join(&link("s1"));
    bench.report("s1", vec![status(ModelPhase::Failed, 7)]);
    assert_eq!(bench.failures(), 1);
    // Reported again it is not renewed, or it would never be tried again.
    bench.now += FAILURE_MEMORY / 2;
    bench.report("s1", vec![status(ModelPhase::Failed, 7)]);
    bench.now += FAILURE_MEMORY / 2;
    assert!(bench.state.expire(bench.now));
    assert_eq!(bench.failures(), 0);

    bench.report("s1", vec![status(ModelPhase::Failed, 7)]);
    let change = FleetEvent::Changed(Change::Put(model_entry("m", 8)));
    assert!(bench.state.apply(change, bench.now));
    assert_eq!(bench.failures(), 0);
}

#[test]
fn a_node_known_only_from_the_store_is_suspect_then_lost() {
    let mut bench = Bench::new();
    let entry = Entry {
        key: keys::node(&bench.node),
        value: serde_json::to_vec(&record()).unwrap(),
        revision: 8,
    };
    assert!(
        bench
            .state
            .apply(FleetEvent::Changed(Change::Put(entry)), bench.now)
    );
    assert_eq!(bench.phase(), NodePhase::Suspect);
    bench.now += GRACE;
    assert!(bench.state.expire(bench.now));
    assert_eq!(bench.phase(), NodePhase::Lost);
}

#[test]
fn what_the_store_holds_of_later_versions_is_left_alone() {
    let mut bench = Bench::new();
    let entry = Entry {
        key: format!("{}models/broken", keys::ROOT),
        value: b"{}".to_vec(),
        revision: 9,
    };
    assert!(
        !bench
            .state
            .apply(FleetEvent::Changed(Change::Put(entry)), bench.now)
    );
}
