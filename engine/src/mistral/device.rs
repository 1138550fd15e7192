//! The device that computes a model, and what follows from it.

use flotilla_core::spec::{Accelerator, Dtype};
use mistralrs::{Device, ModelDType, best_device};

use crate::files::model_shape::ModelShape;
use crate::gpu_context::has_cuda_gpu;

/// The number of sequences that are computed at once, on every device.
///
/// On a CPU mistral.rs 0.8.1 lets the sequences of a decoding batch overwrite each other's attention
/// (`flash_attn_cpu_single_q` shares its scratch memory among them), which would mix the answers. On a GPU a step takes
/// as long again for each sequence in it, so that 32 at once got 53 tokens per second together where one alone got 400
/// (H100, a Llama's shape of a billion parameters).
pub(super) const SEQUENCES: usize = 1;

/// The number of conversations whose beginning mistral.rs keeps: none.
///
/// On a CPU version 0.8.1 evicts only what is in an accelerator's memory, so that every conversation would stay in memory
/// for ever. On a GPU the cache ends the engine together with paged attention (`CUDA_ERROR_ILLEGAL_ADDRESS`) when two
/// requests come at once.
pub(super) const PREFIX_CACHE_SIZE: Option<usize> = None;

/// The widths of heads that paged attention knows (`paged_attention` in mistralrs-paged-attn 0.8.1). The engine panics at
/// others.
const PAGED_HEADS: [u64; 8] = [64, 80, 96, 112, 128, 192, 256, 512];

/// The device that was chosen for a load. Everything that depends on the device is decided by it, never
/// by what else the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ComputeDevice {
    /// The processor.
    Cpu,
    /// The accelerator that mistral.rs was built for.
    Accelerator,
}

impl ComputeDevice {
    /// Chooses the device for a spec's `accelerator`. `has_accelerator` says whether mistral.rs can use one
    /// on this node.
    pub(super) fn choose(requested: Option<Accelerator>, has_accelerator: bool) -> Self {
        match requested {
            Some(Accelerator::Cpu) => Self::Cpu,
            Some(Accelerator::Cuda | Accelerator::Metal) | None if has_accelerator => {
                Self::Accelerator
            }
            Some(Accelerator::Cuda | Accelerator::Metal) | None => Self::Cpu,
        }
    }

    pub(super) fn is_cpu(self) -> bool {
        self == Self::Cpu
    }

    /// The number format for a spec's `dtype`.
    pub(super) fn dtype(self, requested: Option<Dtype>) -> ModelDType {
        match (requested, self) {
            (Some(Dtype::F32), _) => ModelDType::F32,
            (Some(Dtype::F16), _) => ModelDType::F16,
            (Some(Dtype::Bf16), _) => ModelDType::BF16,
            // On a CPU f32 is faster than the format that mistral.rs would choose.
            (None, Self::Cpu) => ModelDType::F32,
            (None, Self::Accelerator) => ModelDType::Auto,
        }
    }

    /// Whether the cache of a sequence is divided into pages: on an accelerator, for a model with heads that these know.
    #[cfg_attr(not(any(feature = "cuda", feature = "metal")), allow(dead_code))]
    pub(super) fn has_paged_attention(self, shape: Option<ModelShape>) -> bool {
        self == Self::Accelerator && shape.is_some_and(|shape| PAGED_HEADS.contains(&shape.head))
    }
}

/// Whether mistral.rs 0.8.1 can compute a model of this shape on a device, in a build with CUDA or without. With it the
/// positions of a model whose heads all have keys of their own are computed by a kernel for GPUs, wherever the model is
/// (`RotaryEmbedding::forward`).
pub(super) fn can_compute(
    device: ComputeDevice,
    shape: Option<ModelShape>,
    has_cuda: bool,
) -> bool {
    let has_own_keys = shape.is_some_and(|shape| shape.queries == shape.keys);
    !(has_cuda && device.is_cpu() && has_own_keys)
}

/// Whether this build is for an accelerator and the node seems to have one. Unlike [`has_accelerator`] this does not
/// open the device, which would take memory of it.
pub(super) fn seems_to_have_accelerator() -> bool {
    has_cuda_gpu() || cfg!(all(feature = "metal", target_os = "macos"))
}

/// Whether mistral.rs can compute on an accelerator of this node.
pub(super) fn has_accelerator() -> bool {
    best_device(false).is_ok_and(|device| !matches!(device, Device::Cpu))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: [Option<Accelerator>; 4] = [
        None,
        Some(Accelerator::Cpu),
        Some(Accelerator::Cuda),
        Some(Accelerator::Metal),
    ];

    #[test]
    fn spec_that_asks_for_the_cpu_gets_it_beside_an_accelerator() {
        let devices = |has| REQUESTS.map(|requested| ComputeDevice::choose(requested, has));
        use ComputeDevice::{Accelerator as Gpu, Cpu};
        assert_eq!(devices(true), [Gpu, Cpu, Gpu, Gpu]);
        assert_eq!(devices(false), [Cpu; 4]);
    }

    #[test]
    fn number_format_follows_the_device_unless_the_spec_names_one() {
        use ComputeDevice::{Accelerator as Gpu, Cpu};
        assert!(matches!(Cpu.dtype(None), ModelDType::F32));
        assert!(matches!(Gpu.dtype(None), ModelDType::Auto));
        for device in [Cpu, Gpu] {
            assert!(matches!(device.dtype(Some(Dtype::F32)), ModelDType::F32));
            assert!(matches!(device.dtype(Some(Dtype::Bf16)), ModelDType::BF16));
        }
    }

    #[test]
    fn build_with_cuda_computes_no_model_without_shared_keys_on_the_cpu() {
        use ComputeDevice::{Accelerator as Gpu, Cpu};
        let shape = |keys| {
            let shape = ModelShape {
                queries: 128,
                keys,
                ..ModelShape::default()
            };
            Some(shape)
        };
        for (device, keys, has_cuda, can) in [
            (Cpu, 128, true, false),
            (Cpu, 128, false, true),
            (Cpu, 64, true, true),
            (Gpu, 128, true, true),
        ] {
            assert_eq!(can_compute(device, shape(keys), has_cuda), can);
        }
        assert!(can_compute(Cpu, None, true));
    }

    #[test]
    fn paged_attention_is_asked_for_where_it_can() {
        use ComputeDevice::{Accelerator as Gpu, Cpu};
        let shape = |head| {
            let shape = ModelShape {
                head,
                ..ModelShape::default()
            };
            Some(shape)
        };
        for head in [64, 80, 96, 112, 128, 192, 256, 512] {
            assert!(Gpu.has_paged_attention(shape(head)), "{head}");
            assert!(!Cpu.has_paged_attention(shape(head)), "{head}");
        }
        // The demo models have heads of 32.
        for head in [0, 32, 48, 100, 120, 1_024] {
            assert!(!Gpu.has_paged_attention(shape(head)), "{head}");
        }
        assert!(!Gpu.has_paged_attention(None), "it is not known");
    }
}
