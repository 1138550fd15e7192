//! Processes that do not end when the agent ends them.

use async_trait::async_trait;
use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, RequestError};
use flotilla_engine::{
    Engine, GenerateEvents, LoadControl, LoadError, LoadProgress, LoadedModel, StuckProcess,
};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::*;

const PROCESS: StuckProcess = StuckProcess { process: 4_711 };

/// A process whose test says what happens to it.
#[derive(Clone, Default)]
struct FakeProcess {
    /// Cancelled when it can never answer again.
    failing: CancellationToken,
    /// Cancelled when it counts as one that cannot be ended.
    stuck: CancellationToken,
    /// Cancelled when it has ended.
    ended: CancellationToken,
    /// `None`: its memory is not measured.
    memory: Option<FakeMemory>,
}

/// The memory of a process, which cannot be read before the test says so.
#[derive(Clone, Default)]
struct FakeMemory {
    /// Cancelled when it is being read.
    reading: CancellationToken,
    /// Cancelled when it can be read.
    readable: CancellationToken,
}

/// Loads each model in a [`FakeProcess`], which it sends to the test. A model with a `loadMs` is never loaded.
struct FakeRunners {
    processes: mpsc::UnboundedSender<FakeProcess>,
    /// That of each process.
    memory: Option<FakeMemory>,
}

#[async_trait]
impl Engine for FakeRunners {
    async fn estimate(&self, model: &Model) -> Result<Bytes, LoadError> {
        Ok(model.spec.memory.unwrap_or_default())
    }

    async fn load(
        &self,
        model: &Model,
        _: LoadProgress,
        control: &LoadControl,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        let process = FakeProcess {
            memory: self.memory.clone(),
            ..FakeProcess::default()
        };
        self.processes.send(process.clone()).unwrap();
        if model.spec.options.load_ms.is_none() {
            return Ok(Arc::new(process));
        }
        control.cancelled.cancelled().await;
        control.report_stuck(process.stuck().await);
        process.ended.cancelled().await;
        Err(LoadError::Cancelled)
    }
}

#[async_trait]
impl LoadedModel for FakeProcess {
    async fn generate(&self, _: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        Ok(futures::stream::pending().boxed())
    }

    async fn embed(&self, _: EmbedRequest) -> Result<Embeddings, RequestError> {
        Ok(Embeddings::default())
    }

    fn process_id(&self) -> Option<u32> {
        self.memory.as_ref().map(|_| PROCESS.process)
    }

    fn peak_memory(&self) -> Option<Bytes> {
        let memory = self.memory.as_ref()?;
        memory.reading.cancel();
        futures::executor::block_on(memory.readable.cancelled());
        Some(Bytes(MEMORY))
    }

    async fn failing(&self) {
        self.failing.cancelled().await;
    }

    async fn failed(&self) -> LoadError {
        self.ended.cancelled().await;
        LoadError::Engine("it was silent".into())
    }

    async fn unload(&self) {
        self.ended.cancelled().await;
    }

    async fn stuck(&self) -> StuckProcess {
        self.stuck.cancelled().await;
        PROCESS
    }
}

/// The model `m` in a fake process, taking two thirds of the memory.
fn model(revision: u64) -> DesiredModel {
    let mut desired = heavy(revision, MEMORY / 3 * 2, 0);
    let spec = &mut desired.model.as_mut().unwrap().spec;
    (spec.engine, spec.options.load_ms) = (EngineKind::Mistral, None);
    desired
}

/// The model `m`, whose load never ends by itself.
fn loading_model() -> DesiredModel {
    let mut desired = model(1);
    desired.model.as_mut().unwrap().spec.options.load_ms = Some(1);
    desired
}

/// Another model, taking this much memory.
fn other(bytes: u64) -> DesiredModel {
    let mut other = simulated("other", 1, 0.0);
    other.model.as_mut().unwrap().spec.memory = Some(Bytes(bytes));
    other
}

fn is_stuck(status: &ModelStatus) -> bool {
    status.phase() == ModelPhase::Failed && status.error == PROCESS.to_string()
}

fn start() -> (TestManager, mpsc::UnboundedReceiver<FakeProcess>) {
    let (sender, processes) = mpsc::unbounded_channel();
    let runners = FakeRunners {
        processes: sender,
        memory: None,
    };
    (TestManager::with_runners(runners), processes)
}

/// With several threads, since one would be blocked if the manager measured itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_whose_memory_cannot_be_read_holds_up_nothing() {
    let (sender, mut processes) = mpsc::unbounded_channel();
    let memory = FakeMemory::default();
    let runners = FakeRunners {
        processes: sender,
        memory: Some(memory.clone()),
    };
    // Whatever fails, the thread that reads is let go.
    let _guard = memory.readable.clone().drop_guard();
    let manager = TestManager::with_runners(runners);
    manager.desire(vec![model(1)]);
    processes.recv().await.unwrap();
    memory.reading.cancelled().await;
    manager.desire(vec![model(1), other(1)]);
    let both = |models: &[ModelStatus]| {
        models.len() == 2 && models.iter().all(|m| m.phase() == ModelPhase::Ready)
    };
    manager.until(both).await;
    memory.readable.cancel();
    manager
        .until(|models| models[0].memory_bytes == MEMORY)
        .await;
}

#[tokio::test]
async fn process_that_does_not_end_keeps_its_memory_and_gets_no_successor_before_it_has() {
    let (manager, mut processes) = start();
    manager.desire(vec![model(1)]);
    let process = processes.recv().await.unwrap();
    manager.until(phase(ModelPhase::Ready)).await;
    process.failing.cancel();
    process.stuck.cancel();
    let stuck = manager.until(|models| is_stuck(&models[0])).await;
    assert_eq!(stuck[0].memory_bytes, MEMORY / 3 * 2);
    assert_eq!(stuck[0].remedy, PROCESS.remedy());
    // Its memory is refused to others at once: nobody knows when it is free.
    manager.desire(vec![model(1), other(MEMORY / 2)]);
    let refused = |models: &[ModelStatus]| {
        models.len() == 2 && models[1].phase() == ModelPhase::Failed && is_stuck(&models[0])
    };
    manager.until(refused).await;
    assert!(
        processes.try_recv().is_err(),
        "nothing is started beside it"
    );
    manager.desire(vec![model(1)]);
    process.ended.cancel();
    processes.recv().await.unwrap();
    let ready = manager.until(phase(ModelPhase::Ready)).await;
    assert_eq!(ready[0].error, "");
}

#[tokio::test]
async fn only_another_revision_starts_beside_a_process_that_cannot_be_ended() {
    let (manager, mut processes) = start();
    manager.desire(vec![model(1)]);
    let process = processes.recv().await.unwrap();
    manager.until(phase(ModelPhase::Ready)).await;
    // It is unloaded, which does not end.
    manager.desire(Vec::new());
    process.stuck.cancel();
    manager.until(|models| is_stuck(&models[0])).await;
    manager.desire(vec![heavy(2, MEMORY / 4, 0)]);
    let beside = |models: &[ModelStatus]| {
        let status = &models[0];
        (status.revision, status.phase()) == (2, ModelPhase::Ready)
    };
    let ready = manager.until(beside).await;
    assert_eq!(ready[0].error, PROCESS.to_string());
    manager.desire(vec![model(1)]);
    let refused = |models: &[ModelStatus]| {
        let next = models[0].replacement.as_ref();
        next.is_some_and(|next| next.revision == 1 && is_stuck(next))
    };
    manager.until(refused).await;
    assert!(processes.try_recv().is_err());
    process.ended.cancel();
    processes.recv().await.unwrap();
    let replaced = |models: &[ModelStatus]| models[0].revision == 1 && models[0].error.is_empty();
    manager.until(replaced).await;
}

#[tokio::test]
async fn agent_stops_although_a_process_cannot_be_ended() {
    for desired in [model(1), loading_model()] {
        let (manager, mut processes) = start();
        manager.desire(vec![desired]);
        let process = processes.recv().await.unwrap();
        // The load is cancelled, or the model is unloaded.
        manager.stop.cancel();
        process.stuck.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(10), manager.task).await;
        ended.expect("the manager waited for the process").unwrap();
    }
}

#[tokio::test]
async fn load_whose_process_cannot_be_ended_keeps_its_memory() {
    let (manager, mut processes) = start();
    manager.desire(vec![loading_model()]);
    let process = processes.recv().await.unwrap();
    manager.desire(Vec::new());
    process.stuck.cancel();
    let stuck = manager
        .until(|models| models.len() == 1 && is_stuck(&models[0]))
        .await;
    assert_eq!(stuck[0].memory_bytes, MEMORY / 3 * 2);
    // It is wanted again, and waits.
    manager.desire(vec![model(1)]);
    process.ended.cancel();
    processes.recv().await.unwrap();
    manager.until(phase(ModelPhase::Ready)).await;
}
