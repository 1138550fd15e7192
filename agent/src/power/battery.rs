//! Meters the discharge of the node's batteries, which is its whole draw while it runs on battery.
//!
//! All batteries are one channel, because a node empties them together or one after the other. The
//! channel has a value only when the node ran on battery at two reads in a row.

use std::path::{Path, PathBuf};

use super::power_integral::PowerIntegral;
use flotilla_core::energy::EnergySource;

use super::{ComponentKind, Meter, MeterChannel, power_supply};

/// Highest plausible draw of a node on battery, in watts; higher values are taken for faults.
const MAX_WATTS: f64 = 1000.0;

/// Resolution of a battery's stored energy, in joules: one milliwatt-hour, the unit of ACPI (ACPI
/// Specification, "Battery Information"). Many batteries report steps ten times as large.
const RESOLUTION: f64 = 3.6;

/// Detects the batteries below `root`. `None` without a battery that reports its power or its
/// stored energy.
pub(super) fn detect(root: &Path) -> Option<Batteries> {
    let batteries = power_supply::batteries(root);
    let gauge = if batteries
        .iter()
        .any(power_supply::Battery::has_power_sensor)
    {
        BatteryGauge::Power(PowerIntegral::new(MAX_WATTS))
    } else if batteries.iter().any(|battery| battery.stored().is_some()) {
        BatteryGauge::Stored(None)
    } else {
        return None;
    };
    let names: Vec<_> = batteries.iter().map(power_supply::Battery::name).collect();
    let channel = MeterChannel {
        id: "battery".to_owned(),
        name: names.join(" + "),
        kind: ComponentKind::Battery,
        source: EnergySource::Battery,
        resolution: match gauge {
            BatteryGauge::Power(_) => 0.0,
            BatteryGauge::Stored(_) => RESOLUTION,
        },
        period: 0.0,
        parent: None,
    };
    Some(Batteries {
        root: root.to_owned(),
        channels: [channel],
        gauge,
    })
}

/// Meter of all batteries of the node.
pub(super) struct Batteries {
    root: PathBuf,
    channels: [MeterChannel; 1],
    gauge: BatteryGauge,
}

/// How the discharge is measured.
enum BatteryGauge {
    /// By integrating the power that the batteries report.
    Power(PowerIntegral),
    /// By comparing the stored energy with the previous read: its time and joules.
    Stored(Option<(f64, f64)>),
}

impl BatteryGauge {
    /// Returns the joules taken out since the previous read. `None` on the first read on battery
    /// and when a value is missing or implausible.
    fn read(&mut self, now: f64, batteries: &[power_supply::Battery]) -> Option<f64> {
        match self {
            Self::Power(integral) => {
                let is_first = integral.is_empty();
                let watts = batteries
                    .iter()
                    .map(power_supply::Battery::discharge_watts)
                    .sum();
                integral.read(now, watts).filter(|_| !is_first)
            }
            Self::Stored(last) => {
                let stored: Option<f64> = batteries.iter().map(power_supply::Battery::stored).sum();
                let stored = stored?;
                let (last_time, last_stored) = last.replace((now, stored))?;
                let joules = last_stored - stored;
                let max_joules = MAX_WATTS * (now - last_time).max(0.0) + RESOLUTION;
                (0.0..=max_joules).contains(&joules).then_some(joules)
            }
        }
    }

    /// Forgets the previous read.
    fn restart(&mut self) {
        match self {
            Self::Power(integral) => integral.restart(),
            Self::Stored(last) => *last = None,
        }
    }
}

impl Meter for Batteries {
    fn channels(&self) -> &[MeterChannel] {
        &self.channels
    }

    fn read(&mut self, now: f64) -> Vec<Option<f64>> {
        let batteries = power_supply::batteries(&self.root);
        if power_supply::feed_node_alone(&self.root, &batteries) {
            return vec![self.gauge.read(now, &batteries)];
        }
        self.gauge.restart();
        vec![None]
    }
}

#[cfg(test)]
mod tests {
    use super::super::sysfs;
    use super::*;

    fn laptop(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = sysfs::tree(&[
            ("sys/class/power_supply/BAT0/type", "Battery"),
            ("sys/class/power_supply/BAT0/status", "Discharging"),
        ]);
        for (file, text) in files {
            set(&root, file, text);
        }
        root
    }

    fn set(root: &tempfile::TempDir, file: &str, text: &str) {
        let file = format!("sys/class/power_supply/{file}");
        sysfs::write(root.path(), &file, text);
    }

    #[test]
    fn energy_is_measured_only_between_two_reads_on_battery() {
        let root = laptop(&[("BAT0/power_now", "10000000")]);
        let mut meter = detect(root.path()).unwrap();
        assert_eq!(meter.read(0.0), [None]);
        assert_eq!(meter.read(2.0), [Some(20.0)]);
        set(&root, "BAT0/status", "Charging");
        assert_eq!(meter.read(3.0), [None]);
        set(&root, "BAT0/status", "Discharging");
        assert_eq!(meter.read(4.0), [None]);
        assert_eq!(meter.read(5.0), [Some(10.0)]);
    }

    #[test]
    fn several_batteries_add_up() {
        let root = laptop(&[
            ("BAT0/power_now", "10000000"),
            ("BAT1/type", "Battery"),
            ("BAT1/status", "Discharging"),
            ("BAT1/voltage_now", "10000000"),
            ("BAT1/current_now", "-500000"),
        ]);
        let mut meter = detect(root.path()).unwrap();
        assert_eq!(meter.channels()[0].name, "BAT0 + BAT1");
        meter.read(0.0);
        assert_eq!(meter.read(1.0), [Some(15.0)]);
        set(&root, "BAT1/status", "Full");
        assert_eq!(meter.read(2.0), [Some(12.5)]);
        set(&root, "BAT0/power_now", "");
        assert_eq!(meter.read(3.0), [None]);
    }

    #[test]
    fn stored_energy_is_compared_when_there_is_no_power_sensor() {
        let root = laptop(&[("BAT0/energy_now", "50000000")]);
        let mut meter = detect(root.path()).unwrap();
        assert_eq!(meter.read(0.0), [None]);
        set(&root, "BAT0/energy_now", "49990000");
        let joules = meter.read(10.0)[0].unwrap();
        assert!((joules - 36.0).abs() < 1e-6);
        for implausible in ["60000000", "1"] {
            set(&root, "BAT0/energy_now", implausible);
            assert_eq!(meter.read(11.0), [None], "{implausible}");
        }
    }

    #[test]
    fn a_battery_that_reports_nothing_is_not_metered() {
        assert!(detect(laptop(&[]).path()).is_none());
        assert!(detect(sysfs::tree(&[]).path()).is_none());
        let root = laptop(&[("BAT0/power_now", "1")]);
        let mut meter = detect(root.path()).unwrap();
        std::fs::remove_dir_all(root.path().join("sys/class/power_supply")).unwrap();
        assert_eq!(meter.read(0.0), [None]);
    }
}
