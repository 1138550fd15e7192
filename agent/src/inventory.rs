//! What this machine is.

use std::collections::BTreeMap;

use flotilla_core::energy::PowerRange;
use flotilla_core::{Bytes, NodeName};
use flotilla_proto::v1::Inventory;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Share of the machine's memory that models may take unless told otherwise: the rest is
/// for the system and for what requests need.
const MEMORY_SHARE: f64 = 0.8;

/// Looks at the machine. `memory` overrides what models may take, `power` what it may draw.
pub(crate) fn take(memory: Option<Bytes>, power: Option<PowerRange>) -> Inventory {
    let looked = System::new_with_specifics(
        RefreshKind::nothing()
            .with_memory(MemoryRefreshKind::nothing().with_ram())
            .with_cpu(CpuRefreshKind::nothing()),
    );
    let (mut total, mut cores, mut cpu) = (0, 0, None);
    match &looked {
        Ok(system) => {
            total = system.total_memory();
            // Inside a container its limit counts, not the machine's memory.
            if let Some(limits) = system.cgroup_limits() {
                total = total.min(limits.total_memory);
            }
            cores = system.cpus().len();
            cpu = system
                .cpus()
                .first()
                .map(|cpu| cpu.brand().trim().to_owned());
        }
        Err(error) => tracing::warn!(%error, "the machine does not tell what it is: give --memory"),
    }
    let cores = cores as u32;
    let power = power.unwrap_or_else(|| PowerRange::guess(cores));
    Inventory {
        memory_bytes: memory.map_or((total as f64 * MEMORY_SHARE) as u64, |bytes| bytes.0),
        cores,
        cpu: cpu.unwrap_or_default(),
        accelerators: accelerators(),
        platform: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        power: Some(flotilla_proto::v1::PowerRange {
            idle_watts: power.idle.0,
            max_watts: power.max.0,
            configured: power.configured,
        }),
    }
}

/// Cores of this machine, at least 1.
pub(crate) fn cores() -> u32 {
    take(None, None).cores.max(1)
}

/// Labels that every node has, from what it is: `flotilla.dev/arch`, `flotilla.dev/os`,
/// `flotilla.dev/node`, and `flotilla.dev/accelerator` where it computes with more than its
/// processor. Those given at start come on top and may say otherwise.
pub(crate) fn labels(name: &NodeName, inventory: &Inventory) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("flotilla.dev/arch", std::env::consts::ARCH),
        ("flotilla.dev/os", std::env::consts::OS),
        ("flotilla.dev/node", name.as_str()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    let accelerator = inventory.accelerators.iter().find(|name| *name != "cpu");
    if let Some(accelerator) = accelerator {
        labels.insert("flotilla.dev/accelerator".to_owned(), accelerator.clone());
    }
    labels
}

/// What the engines of this build compute with, on this machine.
fn accelerators() -> Vec<String> {
    let mut names = vec!["cpu"];
    if cfg!(feature = "cuda") && std::path::Path::new("/dev/nvidia0").exists() {
        names.push("cuda");
    }
    if cfg!(feature = "metal") && cfg!(target_os = "macos") {
        names.push("metal");
    }
    names.into_iter().map(str::to_owned).collect()
}

/// Memory that models may take unless told otherwise. Zero where the machine does not tell.
#[must_use]
pub fn default_memory() -> Bytes {
    Bytes(take(None, None).memory_bytes)
}

/// What is lost because this build does not use instructions that the CPU has. candle picks
/// its kernels when it is compiled.
#[must_use]
pub(crate) fn missed_instructions() -> Option<&'static str> {
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

    #[test]
    fn labels_say_what_the_node_is() {
        let name = NodeName::new("n1").unwrap();
        let mut inventory = take(None, None);
        inventory.accelerators = vec!["cpu".into(), "cuda".into()];
        let labels = labels(&name, &inventory);
        assert_eq!(labels["flotilla.dev/node"], "n1");
        assert_eq!(labels["flotilla.dev/arch"], std::env::consts::ARCH);
        assert_eq!(labels["flotilla.dev/accelerator"], "cuda");
    }

    #[test]
    fn the_machine_has_memory_cores_and_a_platform() {
        let inventory = take(None, None);
        assert!(inventory.memory_bytes > 0 && inventory.cores > 0);
        assert!(inventory.platform.contains('-'));
        assert_eq!(take(Some(Bytes(7)), None).memory_bytes, 7);
    }
}
