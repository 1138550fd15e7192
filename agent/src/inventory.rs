//! The hardware of this machine, for its node's inventory.

use flotilla_core::Bytes;
use flotilla_core::energy::PowerRange;
use flotilla_proto::v1::{self, Inventory};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use crate::power::{Gpu, Gpus, Nvidia};
use crate::runners::VISIBLE_DEVICES;

/// Share of the machine's memory that models get by default. The rest is for the operating system
/// and for running requests.
const MEMORY_SHARE: f64 = 0.8;
/// Share of an accelerator's memory that models get. The rest is for its driver, of which each process has a
/// part, and for fragmentation; vLLM takes the same share by default.
const DEVICE_MEMORY_SHARE: f64 = 0.9;

/// The memory and the processor of this machine, without its accelerators.
#[derive(Default)]
struct Machine {
    /// In a container, its limit.
    memory_bytes: u64,
    /// Those that this process may use: fewer than the machine has where its affinity or its cgroup says so.
    cores: u32,
    /// The name of the processor.
    cpu: String,
}

impl Machine {
    fn detect() -> Result<Self, sysinfo::Error> {
        let system = System::new_with_specifics(
            RefreshKind::nothing()
                .with_memory(MemoryRefreshKind::nothing().with_ram())
                .with_cpu(CpuRefreshKind::nothing()),
        )?;
        let total = system.total_memory();
        let limit = system.cgroup_limits().map(|limits| limits.total_memory);
        let cpu = system.cpus().first();
        Ok(Self {
            memory_bytes: limit.map_or(total, |limit| total.min(limit)),
            cores: std::thread::available_parallelism().map_or(0, |cores| cores.get() as u32),
            cpu: cpu.map_or_else(String::new, |cpu| cpu.brand().trim().to_owned()),
        })
    }

    /// Returns the memory that models get by default, in bytes.
    fn memory_for_models(&self) -> u64 {
        (self.memory_bytes as f64 * MEMORY_SHARE) as u64
    }
}

/// Detects the hardware. `memory` overrides the memory for models, `power` the guessed power draw.
pub(crate) fn detect(memory: Option<Bytes>, power: Option<PowerRange>) -> Inventory {
    detect_with(memory, power, accelerators(), || Box::new(Nvidia::load()))
}

/// Detects the hardware beside these accelerators. `load_gpus` gives access to NVIDIA's.
fn detect_with(
    memory: Option<Bytes>,
    power: Option<PowerRange>,
    accelerators: Vec<String>,
    load_gpus: impl FnOnce() -> Box<dyn Gpus>,
) -> Inventory {
    let machine = Machine::detect().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot detect the memory and the cores of this machine: set --memory");
        Machine::default()
    });
    let total = machine.memory_bytes;
    if let Some(memory) = memory.filter(|memory| total > 0 && memory.0 > total) {
        tracing::warn!(
            "--memory {memory} is more than the machine's memory ({}): models that do not fit fail to load, \
             or make the machine swap",
            Bytes(total)
        );
    }
    let power = power.unwrap_or_else(|| PowerRange::estimate(machine.cores));
    Inventory {
        // Set where the data directory is known.
        disk_bytes: 0,
        memory_bytes: memory.map_or(machine.memory_for_models(), |bytes| bytes.0),
        cores: machine.cores,
        cpu: machine.cpu,
        gpus: usable_gpus(&accelerators, load_gpus),
        accelerators,
        platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        power: Some(v1::PowerRange {
            idle_watts: power.idle.0,
            max_watts: power.max.0,
            configured: power.configured,
        }),
    }
}

/// Returns the GPUs with memory of their own that the engines can use, with their memory for models: those that
/// `CUDA_VISIBLE_DEVICES` allows. Apple's GPUs share the memory of the machine.
fn usable_gpus(accelerators: &[String], load_gpus: impl FnOnce() -> Box<dyn Gpus>) -> Vec<v1::Gpu> {
    if !accelerators.iter().any(|name| name == "cuda") {
        return Vec::new();
    }
    let gpus = load_gpus();
    let allowed = std::env::var(VISIBLE_DEVICES).ok();
    let list = visible_gpus(gpus.list(), allowed.as_deref());
    let with_memory = list.into_iter().filter_map(|gpu| {
        let memory = gpus.memory_bytes(&gpu.uuid)? as f64;
        Some(v1::Gpu {
            memory_bytes: (memory * DEVICE_MEMORY_SHARE) as u64,
            uuid: gpu.uuid,
            name: gpu.name,
        })
    });
    let usable: Vec<_> = with_memory.collect();
    if usable.is_empty() {
        tracing::warn!(
            "the memory of the GPU cannot be read, so that models on it count against the node's memory: run `nvidia-smi` for details"
        );
    }
    usable
}

/// Returns the GPUs that a value of `CUDA_VISIBLE_DEVICES` allows: their indices, or the beginnings of their UUIDs. As for
/// CUDA, nothing counts after the first entry that names none. `None` allows all.
fn visible_gpus(gpus: Vec<Gpu>, allowed: Option<&str>) -> Vec<Gpu> {
    let Some(allowed) = allowed else {
        return gpus;
    };
    let find = |entry: &str| match entry.trim() {
        "" => None,
        entry => match entry.parse::<usize>() {
            Ok(index) => gpus.get(index),
            Err(_) => gpus.iter().find(|gpu| gpu.uuid.starts_with(entry)),
        },
    };
    allowed.split(',').map_while(find).cloned().collect()
}

/// The number of cores of this machine, at least 1.
pub(crate) fn cores() -> u32 {
    Machine::detect().map_or(1, |machine| machine.cores.max(1))
}

/// The kinds of processors that the engines of this build can use on this machine.
fn accelerators() -> Vec<String> {
    let mut names = vec!["cpu"];
    if flotilla_engine::has_cuda_gpu() {
        names.push("cuda");
    }
    if cfg!(feature = "metal") && cfg!(target_os = "macos") {
        names.push("metal");
    }
    names.into_iter().map(str::to_owned).collect()
}

/// Returns the memory that models get by default: four fifths of the machine's memory, or 0 if that
/// cannot be detected.
#[must_use]
pub fn default_memory() -> Bytes {
    Bytes(Machine::detect().map_or(0, |machine| machine.memory_for_models()))
}

/// Returns a warning for users if this build does not use the vector instructions of the CPU: most kernels are
/// selected at compile time.
#[must_use]
pub(crate) fn unused_instructions() -> Option<&'static str> {
    // llama.cpp selects its kernels at run time, and says in the log which.
    if cfg!(feature = "portable") {
        return None;
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && !cfg!(target_feature = "avx2") {
        return Some(
            "this CPU has AVX2 but this build does not use it: quantised models run about four times slower; build with RUSTFLAGS=\"-C target-cpu=x86-64-v3\"",
        );
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") && !cfg!(target_feature = "neon") {
        return Some(
            "this CPU has NEON but this build does not use it: models run several times slower; build with RUSTFLAGS=\"-C target-cpu=native\"",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::FakeGpu;

    #[test]
    fn this_machine_has_memory_cores_and_a_platform() {
        let inventory = detect(None, None);
        assert!(inventory.memory_bytes > 0 && inventory.cores > 0);
        assert!(inventory.platform.contains('-'));
        assert_eq!(detect(Some(Bytes(7)), None).memory_bytes, 7);
    }

    #[test]
    fn memory_of_a_gpu_counts_only_if_the_engines_can_use_it() {
        let detect = |accelerators: &[&str], memory: Option<u64>| {
            let accelerators = accelerators.iter().map(|name| (*name).to_owned());
            let gpu = FakeGpu {
                memory,
                ..FakeGpu::one(None, None)
            };
            let inventory = detect_with(None, None, accelerators.collect(), || Box::new(gpu));
            let gpus = inventory.gpus.into_iter();
            gpus.map(|gpu| (gpu.uuid, gpu.memory_bytes))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            detect(&["cpu", "cuda"], Some(1_000)),
            [("GPU-1".into(), 900)]
        );
        assert_eq!(detect(&["cpu", "cuda"], None), []);
        assert_eq!(detect(&["cpu", "metal"], Some(1_000)), []);
        assert_eq!(detect(&["cpu"], Some(1_000)), []);
    }

    #[test]
    fn gpus_are_those_that_the_operator_allows() {
        let visible = |allowed| {
            let gpus = ["GPU-aa", "GPU-ab", "GPU-b"].map(|uuid| Gpu {
                uuid: uuid.into(),
                name: "Fake".into(),
            });
            let visible = visible_gpus(gpus.into(), allowed);
            visible.into_iter().map(|gpu| gpu.uuid).collect::<Vec<_>>()
        };
        assert_eq!(visible(None), ["GPU-aa", "GPU-ab", "GPU-b"]);
        assert_eq!(visible(Some("2, 0")), ["GPU-b", "GPU-aa"]);
        assert_eq!(visible(Some("GPU-b,GPU-a")), ["GPU-b", "GPU-aa"]);
        assert_eq!(visible(Some("1,7,0")), ["GPU-ab"]);
        assert!(visible(Some("")).is_empty() && visible(Some("-1")).is_empty());
    }
}
