//! The device that computes a model, and what follows from it.

use flotilla_core::spec::{Accelerator, Dtype};
use mistralrs::{Device, ModelDType, best_device};

/// Number of conversations whose beginning an accelerator keeps: the default of mistral.rs.
const PREFIX_CACHE_SIZE: usize = 16;

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

    /// The number of sequences that are computed at once, where the spec allows `concurrency`.
    ///
    /// On a CPU mistral.rs 0.8.1 lets the sequences of a decoding batch overwrite each other's attention
    /// (`flash_attn_cpu_single_q` shares its scratch memory among them), which would mix the answers. One
    /// at a time is correct, and hardly slower on a CPU.
    pub(super) fn sequences(self, concurrency: u32) -> usize {
        match self {
            Self::Cpu => 1,
            Self::Accelerator => concurrency as usize,
        }
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

    /// The number of conversations whose beginning mistral.rs keeps. `None` on a CPU: version 0.8.1 evicts
    /// only what is in an accelerator's memory, so that every conversation would stay in memory for ever.
    pub(super) fn prefix_cache_size(self) -> Option<usize> {
        match self {
            Self::Cpu => None,
            Self::Accelerator => Some(PREFIX_CACHE_SIZE),
        }
    }

    /// Whether the caches of sequences are divided into pages, which mistral.rs can do on accelerators only.
    #[cfg_attr(not(any(feature = "cuda", feature = "metal")), allow(dead_code))]
    pub(super) fn has_paged_attention(self) -> bool {
        self == Self::Accelerator
    }
}

/// Whether this build is for an accelerator and the node seems to have one. Unlike [`has_accelerator`] this does not
/// open the device, which would take memory of it.
pub(super) fn seems_to_have_accelerator() -> bool {
    let has_gpu = cfg!(feature = "cuda") && std::path::Path::new("/dev/nvidia0").exists();
    has_gpu || cfg!(all(feature = "metal", target_os = "macos"))
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
    fn cpu_computes_one_sequence_at_a_time_without_caches() {
        for has_accelerator in [false, true] {
            let cpu = ComputeDevice::choose(Some(Accelerator::Cpu), has_accelerator);
            assert_eq!(cpu.sequences(8), 1);
            assert_eq!(cpu.prefix_cache_size(), None);
            assert!(!cpu.has_paged_attention());
            assert!(matches!(cpu.dtype(None), ModelDType::F32));
            assert!(matches!(cpu.dtype(Some(Dtype::Bf16)), ModelDType::BF16));
        }
    }

    #[test]
    fn accelerator_computes_what_the_spec_allows() {
        let gpu = ComputeDevice::choose(None, true);
        assert_eq!(gpu.sequences(8), 8);
        assert_eq!(gpu.prefix_cache_size(), Some(PREFIX_CACHE_SIZE));
        assert!(gpu.has_paged_attention());
        assert!(matches!(gpu.dtype(None), ModelDType::Auto));
        assert!(matches!(gpu.dtype(Some(Dtype::F32)), ModelDType::F32));
    }
}
