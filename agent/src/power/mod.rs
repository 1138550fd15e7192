//! What this node draws and how it is: the meters that Linux and NVIDIA's driver offer, one file per
//! source, and which of them together are the node's draw.
//!
//! Owns no clock and no thread: whoever reads passes the time in. Knows nothing of models, requests or
//! the network. Start with [`detect`], then [`select`].

mod battery;
mod channel_selection;
mod condition;
mod counter;
mod hwmon;
mod iio;
mod integral;
mod nvml;
mod power_supply;
mod rails;
mod rapl;
mod sensor;
mod sysfs;
mod thermal;

use std::path::Path;
use std::sync::Arc;

use flotilla_core::energy::EnergySource;

pub use channel_selection::{ChannelSelection, on_battery, select};
pub use condition::{BatteryState, ConditionWatcher, NodeCondition};
pub use nvml::{Gpu, Gpus, Nvidia};

/// What a channel measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ComponentKind {
    /// A processor package, or a rail that feeds processor cores or the rest of their chip.
    Cpu,
    /// Memory modules, or a rail that feeds them.
    Memory,
    /// A GPU with its board, or a rail or a part that is one.
    Gpu,
    /// The whole board or node.
    Host,
    /// What is taken out of the batteries.
    Battery,
}

impl ComponentKind {
    /// The value of `hw.type` in OpenTelemetry's hardware conventions. These have none for a whole host,
    /// whose energy is `hw.host.energy` instead: here it is `host`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Gpu => "gpu",
            Self::Host => "host",
            Self::Battery => "battery",
        }
    }
}

/// One thing that is metered.
#[derive(Debug, Clone, PartialEq)]
pub struct MeterChannel {
    /// Unique on the node: `rapl:package-0`, `nvml:GPU-<uuid>`, `hwmon:ina3221:VDD_IN`.
    pub id: String,
    /// For people.
    pub name: String,
    /// What it measures.
    pub kind: ComponentKind,
    /// Where its joules come from.
    pub source: EnergySource,
    /// The smallest step that can be told, in joules; 0 where a power sensor is integrated, whose error
    /// is one of time.
    pub resolution: f64,
    /// How often the sensor itself moves, in seconds; 0 where it does not tell.
    pub period: f64,
    /// The id of the channel that has this one's energy in it already.
    pub parent: Option<String>,
}

/// Something that meters one or more channels.
pub trait Meter: Send {
    /// What it meters: always the same, in the same order.
    fn channels(&self) -> &[MeterChannel];

    /// Joules that each channel has counted since the read before (0 at the first), in the order of
    /// [`Meter::channels`]. `now`: seconds on a clock that never goes back.
    ///
    /// None where a channel cannot tell: it could not be read, and its energy comes with the next read
    /// (of a power sensor only within 60 s); or it was reset, and what it had counted is lost; or it is
    /// of the batteries, and the node did not live off them all the time since the read before.
    fn read(&mut self, now: f64) -> Vec<Option<f64>>;
}

/// What was found on a machine, and what to do about what was found but cannot be read.
#[derive(Default)]
pub struct DetectedMeters {
    /// The meters, each with channels that the others do not have.
    pub meters: Vec<Box<dyn Meter>>,
    /// A line each, for people: what is missing and what to run.
    pub hints: Vec<String>,
}

/// Looks for meters. `root`: `/`, or a folder that looks like it. What cannot be read now is left out
/// with a hint, so look again after following one.
#[must_use]
pub fn detect(root: &Path, gpus: Arc<dyn Gpus>) -> DetectedMeters {
    let mut found = DetectedMeters::default();
    let rapl = rapl::find(root);
    found.hints.extend(rapl.hint);
    let package = rapl.meter.as_ref().and_then(|meter| meter.package());
    let mut parts = hwmon::find(root, package.as_deref());
    parts.extend(iio::find(root));
    rails::relate(&mut parts);
    found.hints.extend(gpus.hint());
    let nvidia = nvml::find(gpus, rails::of_gpu(&parts).as_deref());
    found.add(rapl.meter);
    found.add(nvidia);
    found.add(sensor::meter(parts));
    found.add(battery::find(root));
    found
}

impl DetectedMeters {
    fn add<M: Meter + 'static>(&mut self, meter: Option<M>) {
        if let Some(meter) = meter {
            self.meters.push(Box::new(meter));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::nvml::fake::FakeGpu;
    use super::*;

    fn channels(found: &DetectedMeters) -> Vec<MeterChannel> {
        let meters = found.meters.iter();
        meters.flat_map(|meter| meter.channels().to_vec()).collect()
    }

    fn chosen(found: &DetectedMeters, on_battery: bool) -> (Vec<String>, bool) {
        let channels = channels(found);
        let ChannelSelection {
            channels: selected,
            covers_cpu,
        } = select(&channels, on_battery);
        let ids = selected.into_iter().map(|index| channels[index].id.clone());
        (ids.collect(), covers_cpu)
    }

    #[test]
    fn a_machine_without_meters_has_none_and_needs_no_hint() {
        let root = sysfs::tree(&[]);
        let found = detect(root.path(), Arc::new(FakeGpu::default()));
        assert!(found.meters.is_empty() && found.hints.is_empty());
        assert_eq!(chosen(&found, false), (Vec::new(), false));
    }

    #[test]
    fn a_server_is_its_packages_memory_and_gpus() {
        let root = sysfs::tree(&[
            ("sys/class/powercap/intel-rapl:0/name", "package-0"),
            ("sys/class/powercap/intel-rapl:0/energy_uj", "5"),
            (
                "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
                "262143328850",
            ),
            ("sys/class/powercap/intel-rapl:0:0/name", "dram"),
            ("sys/class/powercap/intel-rapl:0:0/energy_uj", "5"),
            (
                "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj",
                "65712999613",
            ),
            ("sys/class/powercap/intel-rapl:1/name", "psys"),
            ("sys/class/powercap/intel-rapl:1/energy_uj", "5"),
            (
                "sys/class/powercap/intel-rapl:1/max_energy_range_uj",
                "262143328850",
            ),
        ]);
        let found = detect(root.path(), Arc::new(FakeGpu::one(Some(1), None)));
        let (ids, covers_cpu) = chosen(&found, false);
        assert_eq!(ids, ["rapl:package-0", "rapl:package-0/dram", "nvml:GPU-1"]);
        assert!(covers_cpu);
    }

    #[test]
    fn a_jetson_is_what_its_board_draws() {
        let root = sysfs::tree(&[
            ("sys/class/hwmon/hwmon1/name", "ina3221"),
            ("sys/class/hwmon/hwmon1/in1_label", "VDD_IN"),
            ("sys/class/hwmon/hwmon1/in1_input", "5000"),
            ("sys/class/hwmon/hwmon1/curr1_input", "1000"),
            ("sys/class/hwmon/hwmon1/in2_label", "VDD_CPU_GPU_CV"),
            ("sys/class/hwmon/hwmon1/in2_input", "5000"),
            ("sys/class/hwmon/hwmon1/curr2_input", "100"),
        ]);
        let mut found = detect(root.path(), Arc::new(FakeGpu::one(None, Some(900))));
        assert_eq!(
            chosen(&found, false),
            (vec!["hwmon:ina3221:VDD_IN".into()], true)
        );
        let read: Vec<_> = [0.0, 2.0]
            .map(|now| found.meters.iter_mut().flat_map(|m| m.read(now)).collect())
            .into();
        let joules: &Vec<Option<f64>> = &read[1];
        assert_eq!(joules[..2], [Some(1.8), Some(10.0)]);
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let gpus: Arc<dyn Gpus> = Arc::new(Nvidia::load());
        let mut found = detect(Path::new("/"), gpus.clone());
        for now in [0.0, 1.0] {
            for meter in &mut found.meters {
                let joules = meter.read(now);
                assert_eq!(joules.len(), meter.channels().len());
                assert!(
                    joules
                        .iter()
                        .flatten()
                        .all(|joules| (0.0..1e5).contains(joules))
                );
            }
        }
        ConditionWatcher::new(Path::new("/"), gpus).check();
    }

    #[test]
    fn a_gpu_alone_does_not_cover_the_cpu() {
        let root = sysfs::tree(&[]);
        let found = detect(root.path(), Arc::new(FakeGpu::one(Some(1), None)));
        assert_eq!(chosen(&found, false), (vec!["nvml:GPU-1".into()], false));
    }

    #[test]
    fn an_apu_is_not_counted_on_top_of_its_package() {
        let amdgpu = [
            ("sys/class/hwmon/hwmon1/name", "amdgpu"),
            ("sys/class/hwmon/hwmon1/in1_label", "vddnb"),
            ("sys/class/hwmon/hwmon1/power1_input", "15000000"),
        ];
        let root = sysfs::tree(&amdgpu);
        let found = detect(root.path(), Arc::new(FakeGpu::default()));
        assert_eq!(
            chosen(&found, false),
            (vec!["hwmon:amdgpu:hwmon1".into()], true)
        );
        sysfs::write(
            root.path(),
            "sys/class/powercap/intel-rapl:0/name",
            "package-0",
        );
        sysfs::write(
            root.path(),
            "sys/class/powercap/intel-rapl:0/energy_uj",
            "5",
        );
        sysfs::write(
            root.path(),
            "sys/class/powercap/intel-rapl:0/max_energy_range_uj",
            "65532610987",
        );
        let found = detect(root.path(), Arc::new(FakeGpu::default()));
        assert_eq!(chosen(&found, false), (vec!["rapl:package-0".into()], true));
    }

    #[test]
    fn ids_are_unique() {
        let root = sysfs::tree(&[
            ("sys/class/hwmon/hwmon1/name", "amdgpu"),
            ("sys/class/hwmon/hwmon1/power1_input", "1"),
            ("sys/class/hwmon/hwmon2/name", "amdgpu"),
            ("sys/class/hwmon/hwmon2/power1_input", "1"),
            ("sys/class/hwmon/hwmon3/name", "power_meter"),
            ("sys/class/hwmon/hwmon3/power1_average", "1"),
            ("sys/class/hwmon/hwmon4/name", "power_meter"),
            ("sys/class/hwmon/hwmon4/power1_average", "1"),
        ]);
        let found = detect(root.path(), Arc::new(FakeGpu::default()));
        let mut ids: Vec<_> = channels(&found).into_iter().map(|c| c.id).collect();
        assert_eq!(ids.len(), 4);
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 4);
    }
}
