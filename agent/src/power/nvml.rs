//! NVIDIA's GPUs, through the management library of their driver.

use std::sync::Arc;

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::counter::EnergyCounter;
use super::integral::PowerIntegral;
use flotilla_core::energy::EnergySource;

use super::{ComponentKind, Meter, MeterChannel};

/// Joules of one count of the energy counter, and watts of one count of power (NVML API Reference:
/// millijoules, milliwatts).
const MILLI: f64 = 1e-3;

/// Seconds between two updates of power and energy: 100 ms on A100 and H100, less on others (Yang et al.,
/// "Part-time Power Measurements: nvidia-smi's Lack of Attention", 2023).
const PERIOD: f64 = 0.1;

/// No GPU draws more, in watts: the largest of 2025 draw 1400 W.
const MOST: f64 = 5000.0;

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// As NVIDIA's tools show it: `GPU-<uuid>`.
    pub uuid: String,
    /// Its model.
    pub name: String,
}

/// What is asked of GPUs, so that tests need none.
pub trait Gpus: Send + Sync {
    /// The GPUs of this machine.
    fn list(&self) -> Vec<Gpu>;
    /// Millijoules since the driver was loaded. None where the GPU has no counter (before Volta) or is
    /// gone.
    fn energy_millijoules(&self, uuid: &str) -> Option<u64>;
    /// Milliwatts now.
    fn power_milliwatts(&self, uuid: &str) -> Option<u32>;
    /// Whether its clocks are held down by heat.
    fn is_hot(&self, uuid: &str) -> bool;
    /// What to do where GPUs may be there but cannot be asked.
    fn hint(&self) -> Option<String>;
}

/// The GPUs of this machine. The library is loaded when it runs: a machine without it has no GPUs.
pub struct Nvidia {
    library: Result<Nvml, Option<String>>,
}

impl Nvidia {
    /// Loads the library.
    #[must_use]
    pub fn load() -> Self {
        let library = Nvml::init().map_err(|error| hint(&error));
        Self { library }
    }

    fn ask<T>(
        &self,
        uuid: &str,
        question: impl FnOnce(&Device<'_>) -> Result<T, NvmlError>,
    ) -> Option<T> {
        let library = self.library.as_ref().ok()?;
        let answer = library.device_by_uuid(uuid).and_then(|gpu| question(&gpu));
        answer
            .inspect_err(|error| tracing::trace!(%error, uuid, "a GPU does not tell"))
            .ok()
    }
}

/// What to do about a library that does not start. None where that means that there are no GPUs.
fn hint(error: &NvmlError) -> Option<String> {
    match error {
        NvmlError::LibloadingError(_)
        | NvmlError::LibraryNotFound
        | NvmlError::DriverNotLoaded
        | NvmlError::NotFound => None,
        NvmlError::LibRmVersionMismatch => Some(
            "NVIDIA's library and driver are of different versions, so GPUs are not metered: reboot, or load the driver anew".to_owned(),
        ),
        error => Some(format!("NVIDIA's GPUs are not metered: {error}; see what `nvidia-smi` says")),
    }
}

impl Gpus for Nvidia {
    fn list(&self) -> Vec<Gpu> {
        let Ok(library) = &self.library else {
            return Vec::new();
        };
        let look = |index| {
            let gpu = library.device_by_index(index)?;
            let uuid = gpu.uuid()?;
            let name = gpu.name().unwrap_or_else(|_| uuid.clone());
            Ok::<_, NvmlError>(Gpu { uuid, name })
        };
        let indices = 0..library.device_count().unwrap_or_default();
        indices.filter_map(|index| look(index).ok()).collect()
    }

    fn energy_millijoules(&self, uuid: &str) -> Option<u64> {
        self.ask(uuid, |gpu| gpu.total_energy_consumption())
    }

    fn power_milliwatts(&self, uuid: &str) -> Option<u32> {
        self.ask(uuid, |gpu| gpu.power_usage())
    }

    fn is_hot(&self, uuid: &str) -> bool {
        let heat = ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN;
        let reasons = self.ask(uuid, |gpu| gpu.current_throttle_reasons());
        reasons.is_some_and(|reasons| reasons.intersects(heat))
    }

    fn hint(&self) -> Option<String> {
        self.library.as_ref().err().cloned().flatten()
    }
}

/// Meters the GPUs that tell their energy or their power. `within`: the channel that has them in it
/// already, if there is one.
pub(super) fn find(gpus: Arc<dyn Gpus>, within: Option<&str>) -> Option<GpuMeters> {
    let (mut channels, mut gauges) = (Vec::new(), Vec::new());
    for gpu in gpus.list() {
        let (gauge, resolution) = if gpus.energy_millijoules(&gpu.uuid).is_some() {
            (
                GpuGauge::Energy(EnergyCounter::new(MILLI, None, MOST)),
                MILLI,
            )
        } else if gpus.power_milliwatts(&gpu.uuid).is_some() {
            (GpuGauge::Power(PowerIntegral::new(MOST)), 0.0)
        } else {
            continue;
        };
        channels.push(MeterChannel {
            id: format!("nvml:{}", gpu.uuid),
            name: gpu.name,
            kind: ComponentKind::Gpu,
            source: EnergySource::Nvml,
            resolution,
            period: PERIOD,
            parent: within.map(str::to_owned),
        });
        gauges.push((gpu.uuid, gauge));
    }
    (!channels.is_empty()).then_some(GpuMeters {
        gpus,
        channels,
        gauges,
    })
}

enum GpuGauge {
    Energy(EnergyCounter),
    Power(PowerIntegral),
}

/// The meters of all GPUs.
pub(super) struct GpuMeters {
    gpus: Arc<dyn Gpus>,
    channels: Vec<MeterChannel>,
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

/// GPUs that are none.
#[cfg(test)]
pub(super) mod fake {
    use parking_lot::Mutex;

    use super::{Gpu, Gpus};

    /// One GPU or none, which tells what it is told to.
    #[derive(Default)]
    pub(in super::super) struct FakeGpu {
        pub(in super::super) present: bool,
        pub(in super::super) energy: Mutex<Option<u64>>,
        pub(in super::super) power: Option<u32>,
        pub(in super::super) hot: bool,
    }

    impl FakeGpu {
        pub(in super::super) fn one(energy: Option<u64>, power: Option<u32>) -> Self {
            Self {
                present: true,
                energy: Mutex::new(energy),
                power,
                hot: false,
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

        fn is_hot(&self, _: &str) -> bool {
            self.hot
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
    fn the_energy_counter_is_read_where_there_is_one() {
        let gpus = Arc::new(FakeGpu::one(Some(5_000), Some(1)));
        let mut meter = find(gpus.clone(), None).unwrap();
        assert_eq!(meter.channels()[0].id, "nvml:GPU-1");
        assert_eq!(meter.read(0.0), [Some(0.0)]);
        for (now, energy, joules) in [
            (1.0, Some(25_000), Some(20.0)),
            (2.0, None, None),
            (3.0, Some(65_000), Some(40.0)),
            // The driver was loaded anew.
            (4.0, Some(10), None),
            (5.0, Some(1_010), Some(1.0)),
        ] {
            *gpus.energy.lock() = energy;
            assert_eq!(meter.read(now), [joules], "{now}");
        }
    }

    #[test]
    fn power_is_integrated_where_there_is_no_counter() {
        let gpus = Arc::new(FakeGpu::one(None, Some(30_000)));
        let mut meter = find(gpus, Some("rail")).unwrap();
        assert_eq!(meter.channels()[0].parent.as_deref(), Some("rail"));
        meter.read(0.0);
        assert_eq!(meter.read(2.0), [Some(60.0)]);
    }

    #[test]
    fn a_gpu_that_tells_nothing_is_not_metered() {
        assert!(find(Arc::new(FakeGpu::one(None, None)), None).is_none());
    }

    #[test]
    fn only_what_a_person_can_mend_gives_a_hint() {
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
    fn a_machine_with_or_without_the_library_can_be_asked() {
        let nvidia = Nvidia::load();
        for gpu in nvidia.list() {
            assert!(gpu.uuid.starts_with("GPU-"));
        }
        assert_eq!(nvidia.energy_millijoules("GPU-none"), None);
        assert!(!nvidia.is_hot("GPU-none"));
    }
}
