//! Models on a node with several GPUs.

use async_trait::async_trait;
use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, RequestError};
use flotilla_core::spec::Accelerator;
use flotilla_engine::{
    ComputeDevice, GenerateEvents, LoadControl, LoadError, LoadProgress, LoadedModel,
};

use super::*;

/// Loads at once what it is asked for, on the device that it is given.
struct DeviceEngine;

struct OnDevice(ComputeDevice);

#[async_trait]
impl Engine for DeviceEngine {
    async fn estimate(&self, model: &Model) -> Result<Bytes, LoadError> {
        Ok(model.spec.memory.unwrap_or_default())
    }

    async fn load(
        &self,
        _: &Model,
        _: LoadProgress,
        control: &LoadControl,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        Ok(Arc::new(OnDevice(control.device.clone())))
    }
}

#[async_trait]
impl LoadedModel for OnDevice {
    async fn generate(&self, _: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        Err(RequestError::Engine("it answers nothing".into()))
    }

    async fn embed(&self, _: EmbedRequest) -> Result<Embeddings, RequestError> {
        Ok(Embeddings::default())
    }

    fn compute_device(&self) -> ComputeDevice {
        self.0.clone()
    }
}

fn model(name: &str, memory: u64, accelerator: Option<Accelerator>) -> DesiredModel {
    let mut desired = simulated(name, 1, 0.0);
    let spec = &mut desired.model.as_mut().unwrap().spec;
    spec.engine = EngineKind::Mistral;
    spec.source = Some(ModelSource::Path("/nowhere".into()));
    spec.memory = Some(Bytes(memory));
    spec.accelerator = accelerator;
    desired
}

/// Where a model is: its GPU as controllers learn it, and the device that its engine got.
fn place(
    manager: &TestManager,
    models: &[ModelStatus],
    name: &str,
) -> (Option<u32>, ComputeDevice) {
    let status = models.iter().find(|model| model.name == name).unwrap();
    let served = manager.table.get(&ModelName::new(name).unwrap()).unwrap();
    (status.gpu, served.model.compute_device())
}

fn on_gpu(gpu: u32) -> (Option<u32>, ComputeDevice) {
    let uuid = Some(format!("GPU-{gpu}"));
    (Some(gpu), ComputeDevice::Gpu(uuid))
}

#[tokio::test]
async fn each_model_is_on_the_gpu_with_the_most_free_memory() {
    let gpus = vec![Bytes(100), Bytes(60)];
    let manager = TestManager::with_gpus(DeviceEngine, gpus);
    let ready = |count: usize| {
        move |models: &[ModelStatus]| {
            let ready = models.iter().filter(|m| m.phase() == ModelPhase::Ready);
            ready.count() == count
        }
    };
    let first = model("a", 50, None);
    manager.desire(vec![first.clone()]);
    let models = manager.until(ready(1)).await;
    assert_eq!(place(&manager, &models, "a"), on_gpu(0));
    let second = model("b", 55, None);
    let on_cpu = model("c", 70, Some(Accelerator::Cpu));
    let all = vec![first.clone(), second.clone(), on_cpu.clone()];
    manager.desire(all);
    let models = manager.until(ready(3)).await;
    assert_eq!(place(&manager, &models, "b"), on_gpu(1));
    let on_processors = (None, ComputeDevice::Processors);
    assert_eq!(place(&manager, &models, "c"), on_processors);
    // 50 and 5 are free: not 55 for one model.
    manager.desire(vec![first, second, on_cpu, model("d", 55, None)]);
    let failed = |models: &[ModelStatus]| {
        let mut models = models.iter();
        models.any(|m| m.name == "d" && m.phase() == ModelPhase::Failed)
    };
    let models = manager.until(failed).await;
    let status = models.iter().find(|model| model.name == "d").unwrap();
    assert!(status.on_device && status.gpu.is_none(), "{status:?}");
    assert_eq!(status.required_memory_bytes, 55);
}
