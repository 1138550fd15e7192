//! Sensors that Linux exposes in `/sys/class/hwmon`: rails of a board, meters of a whole machine, GPUs.
//!
//! Only chips that are known to measure the draw of a component are metered. Others repeat a better source
//! (`amd_energy` and `zenpower` repeat RAPL, `BAT0` the power supply), report limits, or measure
//! something unknown (the sensors of a power supply, `nvme`).

use std::path::{Path, PathBuf};

use super::sensor::{Sensor, SensorChannel};
use flotilla_core::energy::EnergySource;

use super::{ComponentKind, MeterChannel, rails, sysfs};

/// Highest sensor number that is tried on a chip.
const MAX_SENSORS: u32 = 16;

/// Number of channels of an INA3221. The sensors with higher numbers are voltages over its shunts
/// and their sum, not rails (kernel.org, "Kernel driver ina3221").
const INA3221_CHANNELS: u32 = 3;

/// Names of the ACPI power meters on NVIDIA's Grace, with the component they measure (Grace
/// Performance Tuning Guide, "Power and Thermals"). `None`: not metered, because `Grace Power` of
/// the socket includes it.
const GRACE_METERS: &[(&str, Option<ComponentKind>)] = &[
    ("Module Power", Some(ComponentKind::Host)),
    ("Grace Power", Some(ComponentKind::Cpu)),
    ("CPU Power", None),
    ("SysIO Power", None),
];

/// Detects the metered sensors below `root`. `package`: the id of the processor package's channel,
/// if one is metered.
pub(super) fn detect(root: &Path, package: Option<&str>) -> Vec<SensorChannel> {
    let mut channels: Vec<SensorChannel> = Vec::new();
    for folder in sysfs::entries(&root.join("sys/class/hwmon"), "hwmon") {
        let chip = HwmonChip::new(folder);
        let sensors = match chip.name.as_str() {
            "amdgpu" | "i915" | "xe" | "nouveau" => chip.gpu(package),
            "power_meter" => chip.power_meter(),
            "macsmc_hwmon" => chip.rails(MAX_SENSORS, "power"),
            "ina3221" => chip.rails(INA3221_CHANNELS, "in"),
            name if is_ina(name) => chip.single_rail(),
            _ => Vec::new(),
        };
        for mut sensor in sensors {
            // A board may have two chips of the same type, with rails of the same name.
            if channels
                .iter()
                .any(|other| other.channel.id == sensor.channel.id)
            {
                sensor.channel.id = format!("{}:{}", sensor.channel.id, sysfs::name(&chip.folder));
            }
            channels.push(sensor);
        }
    }
    channels
}

/// Whether the chip is one of TI's power monitors with one channel: `ina219`, `ina226`, `ina238`, …
fn is_ina(name: &str) -> bool {
    let digits = name.strip_prefix("ina");
    digits.is_some_and(|digits| digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()))
}

/// One folder `hwmonN`.
struct HwmonChip {
    folder: PathBuf,
    name: String,
}

impl HwmonChip {
    fn new(folder: PathBuf) -> Self {
        let name = sysfs::label(&folder.join("name"))
            .or_else(|| sysfs::label(&folder.join("device/name")))
            .unwrap_or_default();
        Self { folder, name }
    }

    fn label(&self, file: &str) -> Option<String> {
        sysfs::label(&self.folder.join(file))
    }

    /// Seconds between two measurements of the chip; 0 where unknown.
    fn period(&self) -> f64 {
        let milliseconds = sysfs::count(&self.folder.join("update_interval"));
        milliseconds.unwrap_or_default() as f64 / 1000.0
    }

    /// A channel of this chip.
    fn channel(
        &self,
        label: &str,
        name: String,
        kind: ComponentKind,
        sensor: Sensor,
    ) -> SensorChannel {
        SensorChannel {
            channel: MeterChannel {
                id: format!("hwmon:{}:{label}", self.name),
                name,
                kind,
                source: EnergySource::Hwmon,
                resolution: sensor.resolution(),
                period: self.period(),
                parent: None,
            },
            sensor,
            is_rail: false,
        }
    }

    /// A GPU as one channel, metered by its first sensor. Intel's drivers have sensors only for
    /// discrete cards, with the card as 1 and its chip as 2. On an APU, which has a voltage
    /// `vddnb`, amdgpu reports the power of the whole socket (kernel.org, "GPU Power/Thermal
    /// Controls and Monitoring").
    fn gpu(&self, package: Option<&str>) -> Vec<SensorChannel> {
        let sensor = (1..=2).find_map(|number| Sensor::from_hwmon(&self.folder, number));
        let Some(sensor) = sensor else {
            return Vec::new();
        };
        let device = self.folder.join("device").canonicalize();
        let slot = device.map_or_else(|_| sysfs::name(&self.folder), |path| sysfs::name(&path));
        let is_apu = self.label("in1_label").as_deref() == Some("vddnb");
        let kind = if is_apu {
            ComponentKind::Cpu
        } else {
            ComponentKind::Gpu
        };
        let mut gpu = self.channel(&slot, format!("{} {slot}", self.name), kind, sensor);
        if is_apu {
            gpu.channel.parent = package.map(str::to_owned);
        }
        vec![gpu]
    }

    /// An ACPI power meter: it measures the whole machine unless its OEM information names a
    /// component. Many kernels have its files in the folder of the device.
    fn power_meter(&self) -> Vec<SensorChannel> {
        let device = self.folder.join("device");
        let in_device = device.join("power1_average").exists();
        let folder = if in_device { &device } else { &self.folder };
        let info = sysfs::label(&folder.join("power1_oem_info"));
        let grace_meter = info.as_deref().and_then(|info| {
            let mut names = GRACE_METERS.iter();
            names.find(|(name, _)| info.starts_with(name))
        });
        let kind = grace_meter.map_or(Some(ComponentKind::Host), |(_, kind)| *kind);
        let on_battery = sysfs::count(&folder.join("power1_is_battery")) == Some(1);
        let (Some(kind), Some(sensor), false) = (kind, Sensor::from_hwmon(folder, 1), on_battery)
        else {
            return Vec::new();
        };
        let label = info.unwrap_or_else(|| "power1".to_owned());
        let mut meter = self.channel(&label, label.clone(), kind, sensor);
        let interval = sysfs::count(&folder.join("power1_average_interval"));
        meter.channel.period = interval.unwrap_or_default() as f64 / 1000.0;
        vec![meter]
    }

    /// The rails of a chip that labels each of its sensors, up to number `max_sensors`, in
    /// `<label_prefix>N_label`.
    fn rails(&self, max_sensors: u32, label_prefix: &str) -> Vec<SensorChannel> {
        let rail = |number| {
            if sysfs::count(&self.folder.join(format!("in{number}_enable"))) == Some(0) {
                return None;
            }
            let label = self.label(&format!("{label_prefix}{number}_label"))?;
            self.rail(&label, number)
        };
        (1..=max_sensors).filter_map(rail).collect()
    }

    /// The rail of a chip with one channel, if it is labelled.
    fn single_rail(&self) -> Vec<SensorChannel> {
        let files = ["power1_label", "in1_label", "curr1_label", "label"];
        let label = files.iter().find_map(|file| self.label(file));
        let rail = label.and_then(|label| self.rail(&label, 1));
        rail.into_iter().collect()
    }

    /// The rail with this number, if its label says what it feeds.
    fn rail(&self, label: &str, number: u32) -> Option<SensorChannel> {
        let kind = rails::component(label)?;
        let sensor = Sensor::from_hwmon(&self.folder, number)?;
        let mut rail = self.channel(label, label.to_owned(), kind, sensor);
        rail.is_rail = true;
        Some(rail)
    }
}

#[cfg(test)]
mod tests;
