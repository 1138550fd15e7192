use flotilla_core::ModelRevision;
use flotilla_core::admission::QueueKey;
use flotilla_core::artifact::ArtifactFile;
use flotilla_core::spec::{EngineKind, EngineOptions, Model, ModelSource, ModelSpec, Sha256Digest};
use flotilla_engine::Engine;
use flotilla_proto::v1::{ModelPhase, ModelStatus};
use flotilla_telemetry::Telemetry;

use super::*;
use crate::artifacts::{ArtifactSettings, NoSources};
use crate::energy_accounting::EnergyAccounting;
use crate::runners::{RunnerCommand, RunnerEngine};

mod adapters;
mod gpus;
mod stuck_processes;

fn simulated(name: &str, revision: u64, tokens_per_second: f64) -> DesiredModel {
    let spec = ModelSpec {
        engine: EngineKind::Simulated,
        options: EngineOptions {
            tokens_per_second: Some(tokens_per_second),
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
        is_held: false,
    }
}

/// The node's memory for models, in bytes.
const MEMORY: u64 = 1 << 20;

/// A running manager, with what a test feeds and watches.
struct TestManager {
    desired: watch::Sender<DesiredModels>,
    statuses: ModelStatuses,
    table: ServingTable,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl TestManager {
    fn new() -> Self {
        let command = RunnerCommand::new("/nowhere/flotilla".into());
        Self::with_runners(RunnerEngine::new(command, 1))
    }

    fn with_runners(runners: impl Engine + 'static) -> Self {
        Self::with_gpus(runners, Vec::new())
    }

    /// A manager of a node with GPUs of this memory, whose UUIDs are `GPU-0` and so on.
    fn with_gpus(runners: impl Engine + 'static, gpus: Vec<Bytes>) -> Self {
        let config = ModelManagerConfig {
            gpus: NodeGpus {
                uuids: (0..gpus.len()).map(|gpu| format!("GPU-{gpu}")).collect(),
                has_accelerator: !gpus.is_empty(),
                ..NodeGpus::none()
            },
            memory: NodeMemory {
                host: Bytes(MEMORY),
                gpus,
            },
            drain_timeout: Duration::from_secs(5),
            metrics: RequestMetrics::new(
                EnergyAccounting::without_meters(),
                &Telemetry::disabled().meter(),
            ),
        };
        let settings = ArtifactSettings {
            model_roots: vec!["/".into()],
            dir: "/nowhere".into(),
            fetch_rate: None,
            disk: None,
            disk_agents: 1,
            retention: Duration::ZERO,
        };
        let artifacts = ArtifactStore::new(settings, Arc::new(NoSources::default()));
        let manager = ModelManager::new(
            Engines::new(runners, 1.0, Vec::new()).unwrap(),
            artifacts,
            config,
        );
        let (statuses, table) = (manager.statuses(), manager.table());
        let (desired, receiver) = watch::channel(None);
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

    /// Sets the models that the node should run.
    fn desire(&self, models: Vec<DesiredModel>) {
        self.desired.send_replace(Some(models));
    }

    /// Waits until the reported statuses satisfy `condition`, and returns them.
    async fn until(&self, condition: impl Fn(&[ModelStatus]) -> bool) -> Vec<ModelStatus> {
        let mut changes = self.statuses.changes();
        let wait = async {
            loop {
                changes.borrow_and_update();
                let now = self.statuses.now();
                if condition(&now) {
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
async fn desired_model_is_loaded_and_undesired_model_is_unloaded() {
    let manager = TestManager::new();
    let model = simulated("m", 1, 0.0);
    manager.desire(vec![model.clone()]);
    manager.until(phase(ModelPhase::Ready)).await;
    assert!(manager.table.get(&model.name).is_some());
    manager.desire(Vec::new());
    manager.until(<[_]>::is_empty).await;
    assert!(manager.table.get(&model.name).is_none());
    manager.stop.cancel();
    manager.task.await.unwrap();
}

/// The model `m`, taking this much memory and time to load.
fn heavy(revision: u64, bytes: u64, load_ms: u64) -> DesiredModel {
    let mut desired = simulated("m", revision, 0.0);
    let spec = &mut desired.model.as_mut().unwrap().spec;
    spec.memory = Some(Bytes(bytes));
    spec.options.load_ms = Some(load_ms);
    desired
}

#[tokio::test]
async fn old_revision_serves_until_the_new_one_is_ready() {
    let manager = TestManager::new();
    manager.desire(vec![heavy(1, MEMORY / 3, 0)]);
    manager.until(phase(ModelPhase::Ready)).await;
    let name = ModelName::new("m").unwrap();
    let old = manager.table.get(&name).unwrap();
    let request = old.admit(QueueKey::default(), None).await.ok().unwrap();
    manager.desire(vec![heavy(2, MEMORY / 3, 50)]);
    let both = manager
        .until(|models| models[0].replacement.is_some())
        .await;
    assert_eq!((both[0].phase(), both[0].revision), (ModelPhase::Ready, 1));
    let next = both[0].replacement.as_ref().unwrap();
    assert_eq!((next.phase(), next.revision), (ModelPhase::Loading, 2));
    let ready = manager
        .until(|models| models[0].revision == 2 && models[0].replacement.is_none())
        .await;
    assert_eq!(ready[0].phase(), ModelPhase::Ready);
    drop(request);

    // A revision that fails to load does not affect the one that serves.
    let mut broken = heavy(3, MEMORY / 4, 0);
    broken.model.as_mut().unwrap().spec.options.load_error = Some("broken".into());
    manager.desire(vec![broken]);
    let failed = |models: &[ModelStatus]| {
        let next = models[0].replacement.as_ref();
        next.is_some_and(|next| next.phase() == ModelPhase::Failed)
    };
    let failed = manager.until(failed).await;
    assert_eq!(
        (failed[0].phase(), failed[0].revision),
        (ModelPhase::Ready, 2)
    );
    manager.desire(vec![heavy(2, MEMORY / 3, 0)]);
    let back = manager
        .until(|models| models[0].replacement.is_none())
        .await;
    assert_eq!((back[0].phase(), back[0].revision), (ModelPhase::Ready, 2));
}

#[tokio::test]
async fn without_memory_for_both_the_old_revision_is_unloaded_first() {
    let manager = TestManager::new();
    manager.desire(vec![heavy(1, MEMORY / 3 * 2, 0)]);
    manager.until(phase(ModelPhase::Ready)).await;
    let name = ModelName::new("m").unwrap();
    let old = manager.table.get(&name).unwrap();
    let request = old.admit(QueueKey::default(), None).await.ok().unwrap();
    manager.desire(vec![heavy(2, MEMORY / 3 * 2, 0)]);
    let draining = manager.until(phase(ModelPhase::Draining)).await;
    assert_eq!(draining[0].counters.unwrap().active, 1);
    assert!(manager.table.get(&name).is_none());
    drop(request);
    let ready = manager.until(phase(ModelPhase::Ready)).await;
    assert_eq!(ready[0].revision, 2);
}

#[tokio::test]
async fn model_waits_for_the_memory_of_a_draining_one() {
    let manager = TestManager::new();
    manager.desire(vec![heavy(1, MEMORY, 0)]);
    manager.until(phase(ModelPhase::Ready)).await;
    let old = manager.table.get(&ModelName::new("m").unwrap()).unwrap();
    let request = old.admit(QueueKey::default(), None).await.ok().unwrap();
    let mut other = simulated("other", 1, 0.0);
    other.model.as_mut().unwrap().spec.memory = Some(Bytes(MEMORY));
    manager.desire(vec![other]);
    let waits_for_memory = |models: &[ModelStatus]| {
        models.len() == 2 && models[1].loading_stage == "waiting for memory"
    };
    let waiting = manager.until(waits_for_memory).await;
    assert_eq!(waiting[0].phase(), ModelPhase::Draining);
    assert_eq!(waiting[1].phase(), ModelPhase::Loading);
    drop(request);
    let ready = manager.until(phase(ModelPhase::Ready)).await;
    assert_eq!(ready[0].name, "other");
}

#[tokio::test]
async fn model_waits_for_the_memory_of_a_held_one() {
    let manager = TestManager::new();
    let old = heavy(1, MEMORY, 0);
    manager.desire(vec![old.clone()]);
    manager.until(phase(ModelPhase::Ready)).await;
    let mut other = simulated("other", 1, 0.0);
    other.model.as_mut().unwrap().spec.memory = Some(Bytes(MEMORY));
    let held = DesiredModel {
        is_held: true,
        ..old
    };
    manager.desire(vec![other.clone(), held]);
    let waits_for_memory = |models: &[ModelStatus]| {
        models.len() == 2 && models[1].loading_stage == "waiting for memory"
    };
    let waiting = manager.until(waits_for_memory).await;
    assert_eq!(waiting[0].phase(), ModelPhase::Ready);
    manager.desire(vec![other]);
    let ready = manager.until(phase(ModelPhase::Ready)).await;
    assert_eq!(ready[0].name, "other");
}

#[tokio::test]
async fn model_without_a_spec_is_kept_but_not_started() {
    let manager = TestManager::new();
    manager.desire(vec![heavy(1, 1, 0)]);
    manager.until(phase(ModelPhase::Ready)).await;
    let kept = DesiredModel {
        model: None,
        ..heavy(1, 1, 0)
    };
    let unknown = DesiredModel {
        model: None,
        ..simulated("unknown", 7, 0.0)
    };
    manager.desire(vec![kept, unknown, simulated("new", 1, 0.0)]);
    let both = |models: &[ModelStatus]| {
        models.len() == 2 && models.iter().all(|m| m.phase() == ModelPhase::Ready)
    };
    manager.until(both).await;
}

#[tokio::test]
async fn failed_load_reports_its_problem_and_remedy() {
    let manager = TestManager::new();
    let mut missing = simulated("m", 1, 0.0);
    let spec = &mut missing.model.as_mut().unwrap().spec;
    spec.engine = EngineKind::Mistral;
    spec.source = Some(ModelSource::Path("/nowhere/at/all".into()));
    manager.desire(vec![missing]);
    let failed = manager.until(phase(ModelPhase::Failed)).await;
    assert!(failed[0].error.contains("does not exist"), "{failed:?}");
    assert!(failed[0].remedy.contains("spec.source.path"), "{failed:?}");

    manager.desire(vec![heavy(2, 1 << 30, 0)]);
    let failed = manager
        .until(|models| models[0].revision == 2 && models[0].phase() == ModelPhase::Failed)
        .await;
    assert!(failed[0].error.contains("1.0 GiB"), "{failed:?}");
}

#[tokio::test]
async fn stopping_agent_does_not_wait_for_loads() {
    let manager = TestManager::new();
    manager.desire(vec![heavy(1, 1, 3_600_000)]);
    manager.until(phase(ModelPhase::Loading)).await;
    manager.stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), manager.task).await;
    ended.expect("the manager waited for the load").unwrap();
}

#[test]
fn files_are_needed_by_desired_models_and_by_instances_of_any_revision() {
    let files = |digest| {
        let file = ArtifactFile {
            path: "w".into(),
            size: Bytes(1),
            sha256: Sha256Digest([digest; 32]),
        };
        Manifest::new(vec![file]).unwrap()
    };
    let desired = |revision, digest| DesiredModel {
        files: Some(files(digest)),
        ..simulated("m", revision, 0.0)
    };
    let instance = |revision, digest| ModelInstance {
        id: InstanceId(revision),
        model: ModelName::new("m").unwrap(),
        revision: ModelRevision(revision),
        files: Some(files(digest)),
        base: None,
        on_device: false,
        gpu: None,
        role: InstanceRole::Current,
        phase: InstancePhase::Waiting,
        counters: Arc::default(),
        restarts: Restarts::default(),
        measured: None,
        stuck: None,
    };
    let instances = [instance(1, 1), instance(2, 2)];
    let needed = needed_files(&[desired(2, 2)], instances.iter());
    assert_eq!(needed, [files(2), files(1)]);
    assert_eq!(needed_files(&[], instances.iter()), [files(1), files(2)]);
}
