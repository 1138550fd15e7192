use flotilla_core::ModelRevision;
use flotilla_core::spec::{EngineKind, EngineOptions, ModelSource, ModelSpec};

use flotilla_proto::v1::ModelStatus;

use super::*;
use crate::energy_accounting::EnergyAccounting;
use flotilla_core::admission::QueueKey;
use flotilla_telemetry::Telemetry;

fn simulated(name: &str, revision: u64, pace: f64) -> DesiredModel {
    let spec = ModelSpec {
        engine: EngineKind::Simulated,
        options: EngineOptions {
            tokens_per_second: Some(pace),
            ..EngineOptions::default()
        },
        ..ModelSpec::default()
    };
    let name = ModelName::new(name).unwrap();
    DesiredModel {
        name: name.clone(),
        revision: ModelRevision(revision),
        model: Some(Model::new(name, spec)),
        files: None,
    }
}

/// Memory of the node.
const MEMORY: u64 = 1 << 20;

struct TestManager {
    desired: watch::Sender<Vec<DesiredModel>>,
    statuses: ModelStatuses,
    table: ServingTable,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl TestManager {
    fn new() -> Self {
        let settings = ModelManagerConfig {
            memory: Bytes(MEMORY),
            drain: Duration::from_secs(5),
            return_memory: || {},
            observer: NodeMetrics::new(
                EnergyAccounting::without_meters(),
                &Telemetry::off().meter(),
            ),
        };
        let artifacts = ArtifactStore::new("/nowhere".into(), Arc::default(), None);
        let manager = ModelManager::new(EngineSet::new(1.0).unwrap(), artifacts, settings);
        let (statuses, table) = (manager.statuses(), manager.table());
        let (desired, receiver) = watch::channel(Vec::new());
        let stop = CancellationToken::new();
        let task = tokio::spawn(manager.run(receiver, stop.clone()));
        Self {
            desired,
            statuses,
            table,
            stop,
            task,
        }
    }

    /// Waits until what is reported is as `wanted` says.
    async fn until(&self, wanted: impl Fn(&[ModelStatus]) -> bool) -> Vec<ModelStatus> {
        let mut changes = self.statuses.changes();
        let wait = async {
            loop {
                changes.borrow_and_update();
                let now = self.statuses.now();
                if wanted(&now) {
                    return now;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .unwrap()
    }
}

fn phase(phase: ModelPhase) -> impl Fn(&[ModelStatus]) -> bool {
    move |models| models.len() == 1 && models[0].phase() == phase
}

#[tokio::test]
async fn a_model_comes_and_goes_as_desired() {
    let bench = TestManager::new();
    let model = simulated("m", 1, 0.0);
    bench.desired.send_replace(vec![model.clone()]);
    bench.until(phase(ModelPhase::Ready)).await;
    assert!(bench.table.get(&model.name).is_some());
    bench.desired.send_replace(Vec::new());
    bench.until(<[_]>::is_empty).await;
    assert!(bench.table.get(&model.name).is_none());
    bench.stop.cancel();
    bench.task.await.unwrap();
}

/// The same, taking this much memory and time to load.
fn heavy(revision: u64, bytes: u64, load_ms: u64) -> DesiredModel {
    let mut desired = simulated("m", revision, 0.0);
    let spec = &mut desired.model.as_mut().unwrap().spec;
    spec.memory = Some(Bytes(bytes));
    spec.options.load_ms = Some(load_ms);
    desired
}

#[tokio::test]
async fn a_new_revision_takes_the_place_of_one_that_serves_until_it_is_ready() {
    let bench = TestManager::new();
    bench.desired.send_replace(vec![heavy(1, MEMORY / 3, 0)]);
    bench.until(phase(ModelPhase::Ready)).await;
    let name = ModelName::new("m").unwrap();
    let old = bench.table.get(&name).unwrap();
    let request = old.enter(QueueKey::default(), None).await.ok().unwrap();
    bench.desired.send_replace(vec![heavy(2, MEMORY / 3, 50)]);
    let both = bench.until(|models| models[0].next.is_some()).await;
    assert_eq!((both[0].phase(), both[0].revision), (ModelPhase::Ready, 1));
    let next = both[0].next.as_ref().unwrap();
    assert_eq!((next.phase(), next.revision), (ModelPhase::Loading, 2));
    let ready = bench
        .until(|models| models[0].revision == 2 && models[0].next.is_none())
        .await;
    assert_eq!(ready[0].phase(), ModelPhase::Ready);
    drop(request);

    // One that does not load leaves the one that serves alone.
    let mut broken = heavy(3, MEMORY / 4, 0);
    broken.model.as_mut().unwrap().spec.options.load_error = Some("broken".into());
    bench.desired.send_replace(vec![broken]);
    let failed = |models: &[ModelStatus]| {
        let next = models[0].next.as_ref();
        next.is_some_and(|next| next.phase() == ModelPhase::Failed)
    };
    let failed = bench.until(failed).await;
    assert_eq!(
        (failed[0].phase(), failed[0].revision),
        (ModelPhase::Ready, 2)
    );
    bench.desired.send_replace(vec![heavy(2, MEMORY / 3, 0)]);
    let back = bench.until(|models| models[0].next.is_none()).await;
    assert_eq!((back[0].phase(), back[0].revision), (ModelPhase::Ready, 2));
}

#[tokio::test]
async fn without_memory_for_both_the_old_revision_leaves_first() {
    let bench = TestManager::new();
    bench
        .desired
        .send_replace(vec![heavy(1, MEMORY / 3 * 2, 0)]);
    bench.until(phase(ModelPhase::Ready)).await;
    let name = ModelName::new("m").unwrap();
    let old = bench.table.get(&name).unwrap();
    let request = old.enter(QueueKey::default(), None).await.ok().unwrap();
    bench
        .desired
        .send_replace(vec![heavy(2, MEMORY / 3 * 2, 0)]);
    let draining = bench.until(phase(ModelPhase::Draining)).await;
    assert_eq!(draining[0].counters.unwrap().active, 1);
    assert!(bench.table.get(&name).is_none());
    drop(request);
    let ready = bench.until(phase(ModelPhase::Ready)).await;
    assert_eq!(ready[0].revision, 2);
}

#[tokio::test]
async fn a_model_waits_for_the_memory_of_one_that_leaves() {
    let bench = TestManager::new();
    bench.desired.send_replace(vec![heavy(1, MEMORY, 0)]);
    bench.until(phase(ModelPhase::Ready)).await;
    let old = bench.table.get(&ModelName::new("m").unwrap()).unwrap();
    let request = old.enter(QueueKey::default(), None).await.ok().unwrap();
    let mut other = simulated("other", 1, 0.0);
    other.model.as_mut().unwrap().spec.memory = Some(Bytes(MEMORY));
    bench.desired.send_replace(vec![other]);
    let waits = bench.until(|models| models.len() == 2).await;
    assert_eq!(waits[0].phase(), ModelPhase::Draining);
    assert_eq!(
        (waits[1].phase(), waits[1].step.as_str()),
        (ModelPhase::Loading, "waiting for memory")
    );
    drop(request);
    let ready = bench.until(phase(ModelPhase::Ready)).await;
    assert_eq!(ready[0].name, "other");
}

#[tokio::test]
async fn a_revision_without_a_spec_stays_and_is_not_begun() {
    let bench = TestManager::new();
    bench.desired.send_replace(vec![heavy(1, 1, 0)]);
    bench.until(phase(ModelPhase::Ready)).await;
    let kept = DesiredModel {
        model: None,
        ..heavy(1, 1, 0)
    };
    let unknown = DesiredModel {
        model: None,
        ..simulated("unknown", 7, 0.0)
    };
    bench
        .desired
        .send_replace(vec![kept, unknown, simulated("mark", 1, 0.0)]);
    let both = |models: &[ModelStatus]| {
        models.len() == 2 && models.iter().all(|m| m.phase() == ModelPhase::Ready)
    };
    bench.until(both).await;
}

#[tokio::test]
async fn what_cannot_be_loaded_says_why_and_what_to_do() {
    let bench = TestManager::new();
    let mut missing = simulated("m", 1, 0.0);
    let spec = &mut missing.model.as_mut().unwrap().spec;
    spec.engine = EngineKind::Mistral;
    spec.source = Some(ModelSource::Path("/nowhere/at/all".into()));
    bench.desired.send_replace(vec![missing.clone()]);
    let failed = bench.until(phase(ModelPhase::Failed)).await;
    assert!(failed[0].problem.contains("does not exist"), "{failed:?}");
    assert!(failed[0].remedy.contains("spec.source.path"), "{failed:?}");

    missing.revision = ModelRevision(2);
    let spec = &mut missing.model.as_mut().unwrap().spec;
    spec.source = Some(ModelSource::Path(
        tempfile::tempdir().unwrap().path().to_owned(),
    ));
    spec.memory = Some(Bytes(1 << 30));
    bench.desired.send_replace(vec![missing]);
    let failed = bench
        .until(|models| models[0].revision == 2 && models[0].phase() == ModelPhase::Failed)
        .await;
    assert!(failed[0].problem.contains("1.0 GiB"), "{failed:?}");
}

#[tokio::test]
async fn an_agent_that_ends_waits_for_no_load() {
    let bench = TestManager::new();
    bench.desired.send_replace(vec![heavy(1, 1, 3_600_000)]);
    bench.until(phase(ModelPhase::Loading)).await;
    bench.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), bench.task).await;
    ended.expect("the load was waited for").unwrap();
}
