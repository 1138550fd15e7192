//! NVIDIA GPUs, metered through the management library of their driver (NVML).

use std::sync::Arc;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::energy_counter::EnergyCounter;
use super::power_integral::PowerIntegral;
use flotilla_core::energy::EnergySource;

use super::{ComponentKind, Meter, MeterChannel};

/// Joules per millijoule and watts per milliwatt, the units of NVML (NVML API Reference).
const MILLI: f64 = 1e-3;

/// Seconds between two updates of power and energy: 0.1 on A100 and H100, less on others (Yang et
/// al., "Part-time Power Measurements: nvidia-smi's Lack of Attention", 2023).
const PERIOD: f64 = 0.1;

/// Highest plausible draw of a GPU, in watts; higher values are taken for faults. The largest GPUs
/// of 2025 draw 1400 W.
const MAX_WATTS: f64 = 5000.0;

/// An NVIDIA GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Unique id as shown by NVIDIA's tools: `GPU-<uuid>`.
    pub uuid: String,
    /// Model name, such as `NVIDIA A100-SXM4-40GB`.
    pub name: String,
}

/// Access to the GPUs of a machine. A trait, so that tests need no GPU.
pub trait Gpus: Send + Sync {
    /// Returns the GPUs of the machine.
    fn list(&self) -> Vec<Gpu>;
    /// Returns the energy in millijoules since the driver was loaded. `None` if the GPU has no
    /// counter (before Volta) or cannot be read.
    fn energy_millijoules(&self, uuid: &str) -> Option<u64>;
    /// Returns the current power in milliwatts. `None` if the GPU cannot be read.
    fn power_milliwatts(&self, uuid: &str) -> Option<u32>;
    /// Returns the size of the GPU's memory. `None` if the GPU cannot be read.
    fn memory_bytes(&self, uuid: &str) -> Option<u64>;
    /// Returns the memory that a process takes of the GPU. `None` if that cannot be read.
    fn process_memory(&self, uuid: &str, process: u32) -> Option<u64>;
    /// Returns whether the GPU's clocks are lowered because of heat.
    fn is_thermally_throttled(&self, uuid: &str) -> bool;
    /// Returns what a user can do if there may be GPUs that cannot be read.
    fn hint(&self) -> Option<String>;
}

/// The NVIDIA GPUs of this machine. The library is loaded at run time: a machine without it counts
/// as having no GPUs.
pub struct Nvidia {
    /// The library, or a hint for users why it cannot be used.
    library: Result<Nvml, Option<String>>,
}

impl Nvidia {
    /// Loads the library, if there is one.
    #[must_use]
    pub fn load() -> Self {
        let library = Nvml::init().map_err(|error| hint(&error));
        Self { library }
    }

    /// Queries one GPU. `None` if it cannot be read.
    fn query<T>(
        &self,
        uuid: &str,
        query: impl FnOnce(&Device<'_>) -> Result<T, NvmlError>,
    ) -> Option<T> {
        let library = self.library.as_ref().ok()?;
        let value = library.device_by_uuid(uuid).and_then(|gpu| query(&gpu));
        value
            .inspect_err(|error| tracing::trace!(%error, uuid, "cannot read a GPU"))
            .ok()
    }
}

/// What a user can do about a library that does not start. `None` if the error means that there are
/// no GPUs.
fn hint(error: &NvmlError) -> Option<String> {
    match error {
        NvmlError::LibloadingError(_)
        | NvmlError::LibraryNotFound
        | NvmlError::DriverNotLoaded
        | NvmlError::NotFound => None,
        NvmlError::LibRmVersionMismatch => Some(
            "the NVIDIA library and driver have different versions, so GPUs are not metered: reboot, or reload the driver".to_owned(),
        ),
        error => Some(format!("NVIDIA GPUs are not metered: {error}; run `nvidia-smi` for details")),
    }
}

impl Gpus for Nvidia {
    fn list(&self) -> Vec<Gpu> {
        let Ok(library) = &self.library else {
            return Vec::new();
        };
        let describe = |index| {
            let gpu = library.device_by_index(index)?;
            let uuid = gpu.uuid()?;
            let name = gpu.name().unwrap_or_else(|_| uuid.clone());
            Ok::<_, NvmlError>(Gpu { uuid, name })
        };
        let indices = 0..library.device_count().unwrap_or_default();
        indices.filter_map(|index| describe(index).ok()).collect()
    }

    fn energy_millijoules(&self, uuid: &str) -> Option<u64> {
        self.query(uuid, |gpu| gpu.total_energy_consumption())
    }

    fn power_milliwatts(&self, uuid: &str) -> Option<u32> {
        self.query(uuid, |gpu| gpu.power_usage())
    }

    fn memory_bytes(&self, uuid: &str) -> Option<u64> {
        self.query(uuid, |gpu| gpu.memory_info())
            .map(|memory| memory.total)
    }

    fn process_memory(&self, uuid: &str, process: u32) -> Option<u64> {
        let processes = self.query(uuid, |gpu| gpu.running_compute_processes())?;
        let own = processes.into_iter().find(|other| other.pid == process)?;
        match own.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        }
    }

    fn is_thermally_throttled(&self, uuid: &str) -> bool {
        let heat = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        let reasons = self.query(uuid, |gpu| gpu.current_throttle_reasons());
        reasons.is_some_and(|reasons| reasons.intersects(heat))
    }

    fn hint(&self) -> Option<String> {
        self.library.as_ref().err().cloned().flatten()
    }
}

/// How the id of the channel of a GPU begins, before its UUID.
pub const NVML_CHANNEL: &str = "nvml:";

/// Meters the GPUs that report their energy or their power. `parent`: the id of the channel that
/// includes their energy already, if there is one.
pub(super) fn detect(gpus: Arc<dyn Gpus>, parent: Option<&str>) -> Option<GpuMeters> {
    let (mut channels, mut gauges) = (Vec::new(), Vec::new());
    for gpu in gpus.list() {
        let (gauge, resolution) = if gpus.energy_millijoules(&gpu.uuid).is_some() {
            (
                GpuGauge::Energy(EnergyCounter::new(MILLI, None, MAX_WATTS)),
                MILLI,
            )
        } else if gpus.power_milliwatts(&gpu.uuid).is_some() {
            (GpuGauge::Power(PowerIntegral::new(MAX_WATTS)), 0.0)
        } else {
            continue;
        };
        channels.push(MeterChannel {
            id: format!("{NVML_CHANNEL}{}", gpu.uuid),
            name: gpu.name,
            kind: ComponentKind::Gpu,
            source: EnergySource::Nvml,
            resolution,
            period: PERIOD,
            parent: parent.map(str::to_owned),
        });
        gauges.push((gpu.uuid, gauge));
    }
    (!channels.is_empty()).then_some(GpuMeters {
        gpus,
        channels,
        gauges,
    })
}

/// How the energy of a GPU is measured.
enum GpuGauge {
    /// By its energy counter.
    Energy(EnergyCounter),
    /// By integrating its power.
    Power(PowerIntegral),
}

/// Meter of all GPUs.
pub(super) struct GpuMeters {
    gpus: Arc<dyn Gpus>,
    channels: Vec<MeterChannel>,
    /// UUID and gauge of each GPU, in the order of the channels.
    gauges: Vec<(String, GpuGauge)>,
}

impl Meter for GpuMeters {
    fn channels(&self) -> &[MeterChannel] {
        &self.channels
    }

    fn read(&mut self, now: f64) -> Vec<Option<f64>> {
        let gauges = self.gauges.iter_mut();
        gauges
            .map(|(uuid, gauge)| match gauge {
                GpuGauge::Energy(counter) => counter.read(now, self.gpus.energy_millijoules(uuid)),
                GpuGauge::Power(integral) => {
                    let watts = self
                        .gpus
                        .power_milliwatts(uuid)
                        .map(|power| f64::from(power) * MILLI);
                    integral.read(now, watts)
                }
            })
            .collect()
    }
}

/// A fake GPU for tests.
#[cfg(test)]
pub(crate) mod fake {
    use parking_lot::Mutex;

    use super::{Gpu, Gpus};

    /// One GPU or none, with the values that a test sets.
    #[derive(Default)]
    pub(crate) struct FakeGpu {
        pub(crate) present: bool,
        pub(crate) energy: Mutex<Option<u64>>,
        pub(crate) power: Option<u32>,
        pub(crate) memory: Option<u64>,
        pub(crate) throttled: bool,
    }

    impl FakeGpu {
        pub(crate) fn one(energy: Option<u64>, power: Option<u32>) -> Self {
            Self {
                present: true,
                energy: Mutex::new(energy),
                power,
                memory: None,
                throttled: false,
            }
        }
    }

    impl Gpus for FakeGpu {
        fn list(&self) -> Vec<Gpu> {
            let gpu = Gpu {
                uuid: "GPU-1".into(),
                name: "Fake".into(),
            };
            self.present.then_some(gpu).into_iter().collect()
        }

        fn energy_millijoules(&self, _: &str) -> Option<u64> {
            *self.energy.lock()
        }

        fn power_milliwatts(&self, _: &str) -> Option<u32> {
            self.power
        }

        fn memory_bytes(&self, _: &str) -> Option<u64> {
            self.memory
        }

        fn process_memory(&self, _: &str, _: u32) -> Option<u64> {
            None
        }

        fn is_thermally_throttled(&self, _: &str) -> bool {
            self.throttled
        }

        fn hint(&self) -> Option<String> {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::FakeGpu;
    use super::*;

    #[test]
    fn the_energy_counter_is_preferred() {
        let gpus = Arc::new(FakeGpu::one(Some(5_000), Some(1)));
        let mut meter = detect(gpus.clone(), None).unwrap();
        assert_eq!(meter.channels()[0].id, "nvml:GPU-1");
        assert_eq!(meter.read(0.0), [Some(0.0)]);
        for (now, energy, joules) in [
            (1.0, Some(25_000), Some(20.0)),
            (2.0, None, None),
            (3.0, Some(65_000), Some(40.0)),
            // The driver was reloaded.
            (4.0, Some(10), None),
            (5.0, Some(1_010), Some(1.0)),
        ] {
            *gpus.energy.lock() = energy;
            assert_eq!(meter.read(now), [joules], "{now}");
        }
    }

    #[test]
    fn power_is_integrated_without_an_energy_counter() {
        let gpus = Arc::new(FakeGpu::one(None, Some(30_000)));
        let mut meter = detect(gpus, Some("rail")).unwrap();
        assert_eq!(meter.channels()[0].parent.as_deref(), Some("rail"));
        meter.read(0.0);
        assert_eq!(meter.read(2.0), [Some(60.0)]);
    }

    #[test]
    fn a_gpu_that_reports_nothing_is_not_metered() {
        assert!(detect(Arc::new(FakeGpu::one(None, None)), None).is_none());
    }

    #[test]
    fn only_errors_that_a_user_can_fix_give_a_hint() {
        assert_eq!(hint(&NvmlError::DriverNotLoaded), None);
        assert_eq!(hint(&NvmlError::LibraryNotFound), None);
        assert!(
            hint(&NvmlError::LibRmVersionMismatch)
                .unwrap()
                .contains("reboot")
        );
        assert!(
            hint(&NvmlError::NoPermission)
                .unwrap()
                .contains("permission")
        );
    }

    #[test]
    fn a_machine_with_or_without_the_library_can_be_queried() {
        let nvidia = Nvidia::load();
        for gpu in nvidia.list() {
            assert!(gpu.uuid.starts_with("GPU-"));
            assert!(
                nvidia
                    .memory_bytes(&gpu.uuid)
                    .is_some_and(|bytes| bytes > 0)
            );
        }
        assert_eq!(nvidia.energy_millijoules("GPU-none"), None);
        assert_eq!(nvidia.memory_bytes("GPU-none"), None);
        assert!(!nvidia.is_thermally_throttled("GPU-none"));
    }
}
