//! Adapters beside their base.

use async_trait::async_trait;
use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, RequestError};
use flotilla_engine::{GenerateEvents, LoadControl, LoadError, LoadProgress, LoadedModel};
use futures::StreamExt;

use super::*;

/// The adapter `a` of the model `m`.
fn adapter(revision: u64) -> DesiredModel {
    let mut adapter = simulated("a", revision, 0.0);
    adapter.model.as_mut().unwrap().spec.base = Some(ModelName::new("m").unwrap());
    adapter
}

fn served(manager: &TestManager, name: &str) -> Option<Arc<crate::models::ServedModel>> {
    manager.table.get(&ModelName::new(name).unwrap())
}

/// Whether exactly these models are reported, all of them ready at these revisions.
fn ready(models: &[(&str, u64)]) -> impl Fn(&[ModelStatus]) -> bool {
    move |statuses| {
        let shown = statuses
            .iter()
            .map(|status| (&*status.name, status.revision));
        shown.eq(models.iter().copied())
            && statuses
                .iter()
                .all(|status| status.phase() == ModelPhase::Ready && status.replacement.is_none())
    }
}

#[tokio::test]
async fn adapter_waits_for_its_base_and_leaves_before_it() {
    let manager = TestManager::new();
    manager.desire(vec![adapter(1)]);
    let waiting = |models: &[ModelStatus]| {
        models.len() == 1 && models[0].loading_stage == "waiting for its base m"
    };
    manager.until(waiting).await;
    manager.desire(vec![adapter(1), heavy(1, 1, 10)]);
    manager.until(ready(&[("a", 1), ("m", 1)])).await;
    // A request to the adapter keeps its base.
    let running = served(&manager, "a").unwrap();
    let running = running.admit(QueueKey::default(), None).await.ok().unwrap();
    manager.desire(Vec::new());
    let leaving = |models: &[ModelStatus]| {
        models.len() == 2 && models.iter().all(|m| m.phase() == ModelPhase::Draining)
    };
    manager.until(leaving).await;
    assert!(served(&manager, "a").is_none() && served(&manager, "m").is_none());
    drop(running);
    manager.until(<[_]>::is_empty).await;
}

#[tokio::test]
async fn adapter_moves_to_the_next_revision_of_its_base() {
    let manager = TestManager::new();
    manager.desire(vec![adapter(1), heavy(1, MEMORY / 3, 0)]);
    manager.until(ready(&[("a", 1), ("m", 1)])).await;
    let first = served(&manager, "a").unwrap();
    let running = first
        .clone()
        .admit(QueueKey::default(), None)
        .await
        .ok()
        .unwrap();
    manager.desire(vec![adapter(1), heavy(2, MEMORY / 3, 10)]);
    // The old one serves until the new one is ready, and keeps its base for the request that it computes.
    manager.until(ready(&[("a", 1), ("m", 2)])).await;
    assert!(!Arc::ptr_eq(&served(&manager, "a").unwrap(), &first));
    drop((running, first));
    // Without memory for both revisions of the base, everything leaves first.
    manager.desire(vec![adapter(1), heavy(3, MEMORY / 3 * 2, 0)]);
    manager.until(ready(&[("a", 1), ("m", 3)])).await;
    // A revision of the adapter alone changes beside the earlier one.
    let base = served(&manager, "m").unwrap();
    manager.desire(vec![adapter(2), heavy(3, MEMORY / 3 * 2, 0)]);
    manager.until(ready(&[("a", 2), ("m", 3)])).await;
    assert!(Arc::ptr_eq(&served(&manager, "m").unwrap(), &base));
    manager.desire(vec![heavy(3, MEMORY / 3 * 2, 0)]);
    manager.until(ready(&[("m", 3)])).await;
}

/// Loads models whose process ends while it loads an adapter with the revision `bad`.
struct CrashingRunners;

struct CrashingModel {
    /// Cancelled when the process has ended.
    ended: CancellationToken,
}

impl CrashingModel {
    fn loaded() -> Arc<dyn LoadedModel> {
        Arc::new(Self {
            ended: CancellationToken::new(),
        })
    }
}

#[async_trait]
impl Engine for CrashingRunners {
    async fn estimate(&self, _: &Model) -> Result<Bytes, LoadError> {
        Ok(Bytes(1))
    }

    async fn load(
        &self,
        _: &Model,
        _: LoadProgress,
        _: &LoadControl,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        Ok(CrashingModel::loaded())
    }
}

#[async_trait]
impl LoadedModel for CrashingModel {
    async fn generate(&self, _: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        Ok(futures::stream::pending().boxed())
    }

    async fn embed(&self, _: EmbedRequest) -> Result<Embeddings, RequestError> {
        Ok(Embeddings::default())
    }

    async fn failing(&self) {
        self.ended.cancelled().await;
    }

    async fn failed(&self) -> LoadError {
        self.ended.cancelled().await;
        LoadError::Engine("it has ended".into())
    }

    async fn load_adapter(&self, adapter: &Model) -> Result<Arc<dyn LoadedModel>, LoadError> {
        if adapter.spec.revision != "bad" {
            return Ok(Self::loaded());
        }
        self.ended.cancel();
        Err(LoadError::Engine("the process has ended".into()))
    }
}

#[tokio::test]
async fn adapter_that_ends_the_process_of_its_base_fails_and_the_others_come_back() {
    let manager = TestManager::with_runners(CrashingRunners);
    let computed = |mut desired: DesiredModel, revision: &str| {
        let spec = &mut desired.model.as_mut().unwrap().spec;
        spec.engine = EngineKind::Llama;
        revision.clone_into(&mut spec.revision);
        desired
    };
    let base = computed(simulated("m", 1, 0.0), "");
    let good = computed(adapter(1), "");
    manager.desire(vec![good.clone(), base.clone()]);
    manager.until(ready(&[("a", 1), ("m", 1)])).await;
    let mut bad = computed(adapter(1), "bad");
    bad.name = ModelName::new("b").unwrap();
    manager.desire(vec![good, base, bad]);
    let settled = |models: &[ModelStatus]| {
        let phases: Vec<_> = models.iter().map(|m| (&*m.name, m.phase())).collect();
        phases
            == [
                ("a", ModelPhase::Ready),
                ("b", ModelPhase::Failed),
                ("m", ModelPhase::Ready),
            ]
    };
    let models = manager.until(settled).await;
    assert!(models[1].error.contains("has ended"), "{models:?}");
}
