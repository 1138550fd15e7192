//! The GPUs of this node, as far as models are put on them.

use std::sync::Arc;

use flotilla_core::Bytes;
use flotilla_core::spec::ModelSpec;
use flotilla_engine::ComputeDevice;

use super::memory_budget::MemoryPool;
use crate::power::Gpus;

/// The GPUs of this node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct NodeGpus {
    /// The UUIDs of those with memory of their own, by their indices.
    pub(crate) uuids: Arc<[String]>,
    /// Whether the node has any accelerator.
    pub(crate) has_accelerator: bool,
    /// Where their memory is read.
    pub(crate) access: Arc<dyn Gpus>,
}

impl NodeGpus {
    /// What computes a model that takes its memory of this pool.
    pub(super) fn device(&self, spec: &ModelSpec, pool: MemoryPool) -> ComputeDevice {
        let uuid = |gpu: u32| self.uuids.get(gpu as usize).cloned();
        match pool {
            MemoryPool::Gpu(gpu) => ComputeDevice::Gpu(uuid(gpu)),
            MemoryPool::Host if self.has_accelerator && spec.uses_accelerator() => {
                ComputeDevice::Gpu(None)
            }
            MemoryPool::Host => ComputeDevice::Processors,
        }
    }

    /// The memory that a process takes of a GPU. `None` if that is not known: of a GPU whose driver does not say so, and in
    /// a container that has process ids of its own.
    pub(super) fn process_memory(&self, gpu: u32, process: u32) -> Option<Bytes> {
        let uuid = self.uuids.get(gpu as usize)?;
        self.access.process_memory(uuid, process).map(Bytes)
    }
}

#[cfg(test)]
impl NodeGpus {
    /// Those of a node that has none.
    pub(super) fn none() -> Self {
        Self {
            uuids: Arc::new([]),
            has_accelerator: false,
            access: Arc::new(crate::power::FakeGpu::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::Accelerator;

    #[test]
    fn model_is_computed_where_its_memory_is() {
        let gpus = |has_accelerator, uuids: &[&str]| NodeGpus {
            uuids: uuids.iter().map(|uuid| (*uuid).to_owned()).collect(),
            has_accelerator,
            ..NodeGpus::none()
        };
        let spec = ModelSpec::default();
        let on_cpu = ModelSpec {
            accelerator: Some(Accelerator::Cpu),
            ..ModelSpec::default()
        };
        let two = gpus(true, &["GPU-a", "GPU-b"]);
        let second = ComputeDevice::Gpu(Some("GPU-b".into()));
        assert_eq!(two.device(&spec, MemoryPool::Gpu(1)), second);
        let host = |gpus: &NodeGpus, spec| gpus.device(spec, MemoryPool::Host);
        assert_eq!(host(&two, &on_cpu), ComputeDevice::Processors);
        assert_eq!(host(&gpus(true, &[]), &spec), ComputeDevice::Gpu(None));
        assert_eq!(host(&gpus(false, &[]), &spec), ComputeDevice::Processors);
    }
}
