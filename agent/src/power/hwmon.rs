//! Sensors that Linux shows in `/sys/class/hwmon`: rails of a board, meters of a whole machine, GPUs.
//!
//! Only chips known to measure a draw are metered. Others repeat what a better source tells (`amd_energy`,
//! `zenpower`: RAPL; `BAT0`: the power supply), tell limits, or measure who knows what (a power supply's
//! own sensors, `nvme`).

use std::path::{Path, PathBuf};

use super::sensor::{Sensor, SensorChannel};
use flotilla_core::energy::EnergySource;

use super::{ComponentKind, MeterChannel, rails, sysfs};

/// Most numbers that a chip's sensors are looked for under.
const NUMBERS: u32 = 16;

/// Channels of an INA3221. What comes after them are voltages over its shunts and their sum, which times
/// a current would be nonsense (kernel.org, "Kernel driver ina3221").
const INA3221: u32 = 3;

/// Names that ACPI power meters have on NVIDIA's Grace, with what they measure (Grace Performance Tuning
/// Guide, "Power and Thermals"). A socket's `CPU Power` and `SysIO Power` are in its `Grace Power`.
const GRACE: &[(&str, Option<ComponentKind>)] = &[
    ("Module Power", Some(ComponentKind::Host)),
    ("Grace Power", Some(ComponentKind::Cpu)),
    ("CPU Power", None),
    ("SysIO Power", None),
];

/// What is metered under this root. `package`: the channel of the processor's package, if there is one.
pub(super) fn find(root: &Path, package: Option<&str>) -> Vec<SensorChannel> {
    let mut parts: Vec<SensorChannel> = Vec::new();
    for folder in sysfs::entries(&root.join("sys/class/hwmon"), "hwmon") {
        let chip = HwmonChip::at(folder);
        let found = match chip.name.as_str() {
            "amdgpu" | "i915" | "xe" | "nouveau" => chip.gpu(package),
            "power_meter" => chip.power_meter(),
            "macsmc_hwmon" => chip.rails(NUMBERS, "power"),
            "ina3221" => chip.rails(INA3221, "in"),
            name if is_ina(name) => chip.single_rail(),
            _ => Vec::new(),
        };
        for mut part in found {
            // Boards may have two chips of a sort, with rails of the same name.
            if parts
                .iter()
                .any(|other| other.channel.id == part.channel.id)
            {
                part.channel.id = format!("{}:{}", part.channel.id, sysfs::name(&chip.folder));
            }
            parts.push(part);
        }
    }
    parts
}

/// Whether a chip is one of TI's power monitors with one channel: `ina219`, `ina226`, `ina238`, …
fn is_ina(name: &str) -> bool {
    let digits = name.strip_prefix("ina");
    digits.is_some_and(|digits| digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit()))
}

struct HwmonChip {
    folder: PathBuf,
    name: String,
}

impl HwmonChip {
    fn at(folder: PathBuf) -> Self {
        let name = sysfs::label(&folder.join("name"))
            .or_else(|| sysfs::label(&folder.join("device/name")))
            .unwrap_or_default();
        Self { folder, name }
    }

    fn label(&self, file: &str) -> Option<String> {
        sysfs::label(&self.folder.join(file))
    }

    /// How often the chip measures, in seconds.
    fn period(&self) -> f64 {
        let milliseconds = sysfs::count(&self.folder.join("update_interval"));
        milliseconds.unwrap_or_default() as f64 / 1000.0
    }

    fn part(
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
            rail: false,
        }
    }

    /// A GPU as one channel: its first sensor that there is. Intel's drivers have these only for cards,
    /// with the card as 1 and its chip as 2. amdgpu also has a voltage `vddnb` on processors with a GPU,
    /// and there the power is the whole socket's (kernel.org, "GPU Power/Thermal Controls and Monitoring").
    fn gpu(&self, package: Option<&str>) -> Vec<SensorChannel> {
        let sensors = (1..=2).find_map(|number| Sensor::of_hwmon(&self.folder, number));
        let Some(sensor) = sensors else {
            return Vec::new();
        };
        let device = self.folder.join("device").canonicalize();
        let place = device.map_or_else(|_| sysfs::name(&self.folder), |path| sysfs::name(&path));
        let is_apu = self.label("in1_label").as_deref() == Some("vddnb");
        let kind = if is_apu {
            ComponentKind::Cpu
        } else {
            ComponentKind::Gpu
        };
        let mut part = self.part(&place, format!("{} {place}", self.name), kind, sensor);
        if is_apu {
            part.channel.parent = package.map(str::to_owned);
        }
        vec![part]
    }

    /// An ACPI power meter: the whole machine, unless it says what part. Its files are in the device's
    /// folder in many kernels.
    fn power_meter(&self) -> Vec<SensorChannel> {
        let device = self.folder.join("device");
        let inside = device.join("power1_average").exists();
        let folder = if inside { &device } else { &self.folder };
        let info = sysfs::label(&folder.join("power1_oem_info"));
        let known = info.as_deref().and_then(|info| {
            let mut names = GRACE.iter();
            names.find(|(name, _)| info.starts_with(name))
        });
        let kind = known.map_or(Some(ComponentKind::Host), |(_, kind)| *kind);
        let on_battery = sysfs::count(&folder.join("power1_is_battery")) == Some(1);
        let (Some(kind), Some(sensor), false) = (kind, Sensor::of_hwmon(folder, 1), on_battery)
        else {
            return Vec::new();
        };
        let label = info.unwrap_or_else(|| "power1".to_owned());
        let mut part = self.part(&label, label.clone(), kind, sensor);
        let interval = sysfs::count(&folder.join("power1_average_interval"));
        part.channel.period = interval.unwrap_or_default() as f64 / 1000.0;
        vec![part]
    }

    /// The rails that a chip with a label for each (`<labels>N_label`) measures.
    fn rails(&self, numbers: u32, labels: &str) -> Vec<SensorChannel> {
        let rail = |number| {
            if sysfs::count(&self.folder.join(format!("in{number}_enable"))) == Some(0) {
                return None;
            }
            let label = self.label(&format!("{labels}{number}_label"))?;
            self.rail(&label, number)
        };
        (1..=numbers).filter_map(rail).collect()
    }

    /// The rail that a chip with one channel measures, where its maker says which.
    fn single_rail(&self) -> Vec<SensorChannel> {
        let files = ["power1_label", "in1_label", "curr1_label", "label"];
        let label = files.iter().find_map(|file| self.label(file));
        let rail = label.and_then(|label| self.rail(&label, 1));
        rail.into_iter().collect()
    }

    fn rail(&self, label: &str, number: u32) -> Option<SensorChannel> {
        let kind = rails::kind(label)?;
        let sensor = Sensor::of_hwmon(&self.folder, number)?;
        let mut part = self.part(label, label.to_owned(), kind, sensor);
        part.rail = true;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sensor::meter;
    use super::super::{Meter, rails};
    use super::*;

    fn seen(files: &[(&str, &str)]) -> Vec<(String, ComponentKind, Option<String>)> {
        let root = sysfs::tree(files);
        let mut parts = find(&root.path().join(""), Some("rapl:package-0"));
        rails::relate(&mut parts);
        let channels = parts.into_iter().map(|part| part.channel);
        channels.map(|c| (c.id, c.kind, c.parent)).collect()
    }

    #[test]
    fn an_agx_board_without_a_total_is_its_rails() {
        let seen = seen(&[
            ("sys/class/hwmon/hwmon3/name", "ina3221"),
            ("sys/class/hwmon/hwmon3/in1_label", "VDD_GPU_SOC"),
            ("sys/class/hwmon/hwmon3/in1_input", "18792"),
            ("sys/class/hwmon/hwmon3/curr1_input", "140"),
            ("sys/class/hwmon/hwmon3/in3_label", "VIN_SYS_5V0"),
            ("sys/class/hwmon/hwmon3/in3_input", "4968"),
            ("sys/class/hwmon/hwmon3/curr3_input", "980"),
            ("sys/class/hwmon/hwmon3/in4_input", "280"),
            ("sys/class/hwmon/hwmon3/curr4_input", "360"),
            ("sys/class/hwmon/hwmon3/in7_label", "sum of shunt voltages"),
            ("sys/class/hwmon/hwmon3/in7_input", "760"),
            ("sys/class/hwmon/hwmon4/name", "ina3221"),
            ("sys/class/hwmon/hwmon4/in1_label", "VDD_CPU"),
            ("sys/class/hwmon/hwmon4/in1_enable", "0"),
            ("sys/class/hwmon/hwmon4/in1_input", "1"),
            ("sys/class/hwmon/hwmon4/curr1_input", "1"),
            ("sys/class/hwmon/hwmon4/in2_label", "VDDQ_VDD2_1V8AO"),
            ("sys/class/hwmon/hwmon4/in2_input", "4968"),
            ("sys/class/hwmon/hwmon4/curr2_input", "80"),
        ]);
        let system = "hwmon:ina3221:VIN_SYS_5V0".to_owned();
        assert_eq!(
            seen,
            [
                ("hwmon:ina3221:VDD_GPU_SOC".into(), ComponentKind::Gpu, None),
                (system.clone(), ComponentKind::Memory, None),
                (
                    "hwmon:ina3221:VDDQ_VDD2_1V8AO".into(),
                    ComponentKind::Memory,
                    Some(system)
                ),
            ]
        );
    }

    #[test]
    fn volts_times_amperes_over_time_are_joules() {
        let root = sysfs::tree(&[
            ("sys/class/hwmon/hwmon3/name", "ina3221"),
            ("sys/class/hwmon/hwmon3/update_interval", "33"),
            ("sys/class/hwmon/hwmon3/in1_label", "VDD_IN"),
            ("sys/class/hwmon/hwmon3/in1_input", "5000"),
            ("sys/class/hwmon/hwmon3/curr1_input", "2000"),
        ]);
        let mut meter = meter(find(root.path(), None)).unwrap();
        assert!((meter.channels()[0].period - 0.033).abs() < 1e-9);
        assert_eq!(meter.read(1.0), [Some(0.0)]);
        assert_eq!(meter.read(1.5), [Some(5.0)]);
        std::fs::remove_dir_all(root.path().join("sys/class/hwmon/hwmon3")).unwrap();
        assert_eq!(meter.read(2.0), [None]);
    }

    #[test]
    fn one_rail_feeds_the_whole_board() {
        let rail = |at: u32, name: &str, label: &str| {
            let file = |end: &str| format!("sys/class/hwmon/hwmon{at}/{end}");
            [
                (file("name"), name.to_owned()),
                (file("label"), label.to_owned()),
                (file("power1_input"), "1".to_owned()),
            ]
        };
        let files: Vec<_> = [
            rail(1, "ina238", "VIN"),
            rail(2, "ina226", "VDD_IN"),
            rail(3, "ina219", ""),
        ]
        .concat();
        let files: Vec<_> = files
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        let whole = Some("hwmon:ina238:VIN".to_owned());
        assert_eq!(
            seen(&files),
            [
                ("hwmon:ina238:VIN".into(), ComponentKind::Host, None),
                ("hwmon:ina226:VDD_IN".into(), ComponentKind::Host, whole),
            ]
        );
    }

    #[test]
    fn gpus_are_one_channel_each_and_apus_are_sockets() {
        let seen = seen(&[
            ("sys/class/hwmon/hwmon0/name", "amdgpu"),
            ("sys/class/hwmon/hwmon0/power1_average", "1"),
            ("sys/class/hwmon/hwmon0/power1_cap", "1"),
            ("sys/class/hwmon/hwmon1/name", "xe"),
            ("sys/class/hwmon/hwmon1/energy1_input", "1"),
            ("sys/class/hwmon/hwmon1/energy2_input", "1"),
            ("sys/class/hwmon/hwmon2/name", "amdgpu"),
            ("sys/class/hwmon/hwmon2/in1_label", "vddnb"),
            ("sys/class/hwmon/hwmon2/power1_input", "1"),
        ]);
        assert_eq!(
            seen,
            [
                ("hwmon:amdgpu:hwmon0".into(), ComponentKind::Gpu, None),
                ("hwmon:xe:hwmon1".into(), ComponentKind::Gpu, None),
                (
                    "hwmon:amdgpu:hwmon2".into(),
                    ComponentKind::Cpu,
                    Some("rapl:package-0".into())
                ),
            ]
        );
    }

    #[test]
    fn acpi_meters_are_the_machine_or_say_what_they_are() {
        let meter = |at: u32, info: &str| {
            let file = |end: &str| format!("sys/class/hwmon/hwmon{at}/{end}");
            [
                (file("name"), "power_meter".to_owned()),
                (file("device/power1_average"), "1".to_owned()),
                (file("device/power1_oem_info"), info.to_owned()),
            ]
        };
        let files: Vec<_> = [
            meter(1, "Grace Power Socket 0"),
            meter(2, "CPU Power Socket 0"),
            meter(3, "SysIO Power Socket 0"),
            meter(4, ""),
        ]
        .concat();
        let files: Vec<_> = files
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert_eq!(
            seen(&files),
            [
                (
                    "hwmon:power_meter:Grace Power Socket 0".into(),
                    ComponentKind::Cpu,
                    None
                ),
                ("hwmon:power_meter:power1".into(), ComponentKind::Host, None),
            ]
        );
    }

    #[test]
    fn what_is_no_draw_of_its_own_is_left_out() {
        for name in [
            "BAT0",
            "nvme",
            "amd_energy",
            "i915_gt0",
            "corsairpsu",
            "ina",
            "inaxyz",
            "",
        ] {
            let seen = seen(&[
                ("sys/class/hwmon/hwmon0/name", name),
                ("sys/class/hwmon/hwmon0/power1_label", "total"),
                ("sys/class/hwmon/hwmon0/power1_input", "1"),
                ("sys/class/hwmon/hwmon0/energy1_input", "1"),
            ]);
            assert_eq!(seen, [], "{name}");
        }
    }

    #[test]
    fn apples_smc_tells_the_whole_machine() {
        let seen = seen(&[
            ("sys/class/hwmon/hwmon0/name", "macsmc_hwmon"),
            (
                "sys/class/hwmon/hwmon0/power1_label",
                "Total CPU Core Power",
            ),
            ("sys/class/hwmon/hwmon0/power1_input", "1"),
            ("sys/class/hwmon/hwmon0/power2_label", "Total System Power"),
            ("sys/class/hwmon/hwmon0/power2_input", "1"),
        ]);
        let whole = "hwmon:macsmc_hwmon:Total System Power".to_owned();
        assert_eq!(seen[0].2, Some(whole.clone()));
        assert_eq!(seen[1], (whole, ComponentKind::Host, None));
    }
}
