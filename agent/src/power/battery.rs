//! What the node takes out of its batteries: all that it draws, while nothing else feeds it.
//!
//! All batteries are one channel, since a node empties them together or one after the other. It tells
//! only for times that lie between two reads on battery; over a change of the plug it says nothing.

use std::path::{Path, PathBuf};

use super::integral::PowerIntegral;
use flotilla_core::energy::EnergySource;

use super::{ComponentKind, Meter, MeterChannel, power_supply};

/// No node on batteries draws more, in watts.
const MOST: f64 = 1000.0;

/// The smallest step of what a battery says that it holds, in joules: a milliwatt-hour, ACPI's unit (ACPI
/// Specification, "Battery Information"). Many move in steps ten times that.
const STEP: f64 = 3.6;

/// Meters the batteries, where there are any that tell what is taken out of them.
pub(super) fn find(root: &Path) -> Option<Batteries> {
    let batteries = power_supply::batteries(root);
    let gauge = if batteries.iter().any(power_supply::PowerSupply::has_power) {
        BatteryGauge::Power(PowerIntegral::new(MOST))
    } else if batteries.iter().any(|battery| battery.stored().is_some()) {
        BatteryGauge::Stored(None)
    } else {
        return None;
    };
    let names: Vec<_> = batteries
        .iter()
        .map(power_supply::PowerSupply::name)
        .collect();
    let channel = MeterChannel {
        id: "battery".to_owned(),
        name: names.join(" + "),
        kind: ComponentKind::Battery,
        source: EnergySource::Battery,
        resolution: match gauge {
            BatteryGauge::Power(_) => 0.0,
            BatteryGauge::Stored(_) => STEP,
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

/// The batteries of the node.
pub(super) struct Batteries {
    root: PathBuf,
    channels: [MeterChannel; 1],
    gauge: BatteryGauge,
}

enum BatteryGauge {
    Power(PowerIntegral),
    /// When what they hold was last read, and how many joules it was.
    Stored(Option<(f64, f64)>),
}

impl BatteryGauge {
    /// Joules since the read before, on battery at both.
    fn read(&mut self, now: f64, batteries: &[power_supply::PowerSupply]) -> Option<f64> {
        match self {
            Self::Power(integral) => {
                let is_new = integral.is_new();
                let watts = batteries.iter().map(power_supply::PowerSupply::watts).sum();
                integral.read(now, watts).filter(|_| !is_new)
            }
            Self::Stored(last) => {
                let stored: Option<f64> = batteries
                    .iter()
                    .map(power_supply::PowerSupply::stored)
                    .sum();
                let stored = stored?;
                let (then, before) = last.replace((now, stored))?;
                let joules = before - stored;
                let most = MOST * (now - then).max(0.0) + STEP;
                (0.0..=most).contains(&joules).then_some(joules)
            }
        }
    }

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
        if power_supply::alone(&self.root, &batteries) {
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
    fn it_tells_only_between_two_reads_on_battery() {
        let root = laptop(&[("BAT0/power_now", "10000000")]);
        let mut meter = find(root.path()).unwrap();
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
        let mut meter = find(root.path()).unwrap();
        assert_eq!(meter.channels()[0].name, "BAT0 + BAT1");
        meter.read(0.0);
        assert_eq!(meter.read(1.0), [Some(15.0)]);
        set(&root, "BAT1/status", "Full");
        assert_eq!(meter.read(2.0), [Some(12.5)]);
        set(&root, "BAT0/power_now", "");
        assert_eq!(meter.read(3.0), [None]);
    }

    #[test]
    fn what_it_holds_is_compared_where_it_has_no_power_sensor() {
        let root = laptop(&[("BAT0/energy_now", "50000000")]);
        let mut meter = find(root.path()).unwrap();
        assert_eq!(meter.read(0.0), [None]);
        set(&root, "BAT0/energy_now", "49990000");
        let joules = meter.read(10.0)[0].unwrap();
        assert!((joules - 36.0).abs() < 1e-6);
        for absurd in ["60000000", "1"] {
            set(&root, "BAT0/energy_now", absurd);
            assert_eq!(meter.read(11.0), [None], "{absurd}");
        }
    }

    #[test]
    fn a_node_without_a_telling_battery_is_not_metered() {
        assert!(find(laptop(&[]).path()).is_none());
        assert!(find(sysfs::tree(&[]).path()).is_none());
        let root = laptop(&[("BAT0/power_now", "1")]);
        let mut meter = find(root.path()).unwrap();
        std::fs::remove_dir_all(root.path().join("sys/class/power_supply")).unwrap();
        assert_eq!(meter.read(0.0), [None]);
    }
}
