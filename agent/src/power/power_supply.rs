//! The batteries of this node and its other power supplies, as Linux exposes them.

use std::path::{Path, PathBuf};

use super::sysfs;

/// Returns the batteries of the node itself; those of peripherals such as a mouse have the scope
/// `Device`.
pub(super) fn batteries(root: &Path) -> Vec<Battery> {
    let supplies = supplies(root).into_iter();
    supplies
        .filter(|folder| word(folder, "type") == "Battery")
        .filter(|folder| sysfs::count(&folder.join("present")) != Some(0))
        .map(|folder| Battery { folder })
        .collect()
}

/// Returns whether only these batteries feed the node: one is discharging, none is charging, and no
/// other supply is online.
pub(super) fn feed_node_alone(root: &Path, batteries: &[Battery]) -> bool {
    let any_is = |status: &str| batteries.iter().any(|battery| battery.status() == status);
    let is_online = |folder: &PathBuf| {
        matches!(word(folder, "type").as_str(), "Mains" | "USB" | "Wireless")
            && sysfs::count(&folder.join("online")).is_some_and(|online| online > 0)
    };
    any_is("Discharging") && !any_is("Charging") && !supplies(root).iter().any(is_online)
}

/// The folders of all power supplies of the node itself.
fn supplies(root: &Path) -> Vec<PathBuf> {
    let mut supplies = sysfs::entries(&root.join("sys/class/power_supply"), "");
    supplies.retain(|folder| word(folder, "scope") != "Device");
    supplies
}

/// The content of a file, empty if it cannot be read.
fn word(folder: &Path, file: &str) -> String {
    sysfs::text(&folder.join(file)).unwrap_or_default()
}

/// A battery of the node.
pub(super) struct Battery {
    folder: PathBuf,
}

impl Battery {
    /// The name of its folder, such as `BAT0`.
    pub(super) fn name(&self) -> String {
        sysfs::name(&self.folder)
    }

    fn status(&self) -> String {
        word(&self.folder, "status")
    }

    /// The state of charge, from 0 to 1.
    pub(super) fn charge(&self) -> Option<f64> {
        let percent = self.count("capacity").filter(|percent| *percent <= 100)?;
        Some(percent as f64 / 100.0)
    }

    /// The energy it holds when full, in joules.
    pub(super) fn capacity(&self) -> Option<f64> {
        self.amount("energy_full", "charge_full")
    }

    /// The energy it holds now, in joules.
    pub(super) fn stored(&self) -> Option<f64> {
        self.amount("energy_now", "charge_now")
    }

    /// Whether it has a power sensor.
    pub(super) fn has_power_sensor(&self) -> bool {
        let has = |file: &str| self.folder.join(file).exists();
        has("power_now") || has("voltage_now") && has("current_now")
    }

    /// The power taken out of it, in watts; 0 unless it is discharging. `None` if it cannot be read.
    pub(super) fn discharge_watts(&self) -> Option<f64> {
        if self.status() != "Discharging" {
            return Some(0.0);
        }
        // Drivers disagree on the sign.
        if let Some(microwatts) = sysfs::signed(&self.folder.join("power_now")) {
            return Some(microwatts.unsigned_abs() as f64 * 1e-6);
        }
        let microamperes = sysfs::signed(&self.folder.join("current_now"))?.unsigned_abs();
        Some(self.volts("voltage_now")? * microamperes as f64 * 1e-6)
    }

    /// Reads an energy in joules from the file `energy` in microwatt-hours or, if missing, the file
    /// `charge` in microampere-hours. Charge is converted at the nominal voltage: the momentary
    /// voltage falls under load, and energy would seem to come and go.
    fn amount(&self, energy: &str, charge: &str) -> Option<f64> {
        const SECONDS_PER_HOUR: f64 = 3600.0;
        if let Some(energy) = self.count(energy) {
            return Some(energy as f64 * 1e-6 * SECONDS_PER_HOUR);
        }
        Some(
            self.count(charge)? as f64
                * 1e-6
                * SECONDS_PER_HOUR
                * self.volts("voltage_min_design")?,
        )
    }

    /// A voltage in volts, from a file in microvolts.
    fn volts(&self, file: &str) -> Option<f64> {
        Some(self.count(file)? as f64 * 1e-6)
    }

    fn count(&self, file: &str) -> Option<u64> {
        sysfs::count(&self.folder.join(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batteries_of_peripherals_and_empty_bays_are_ignored() {
        let root = sysfs::tree(&[
            ("sys/class/power_supply/BAT0/type", "Battery"),
            ("sys/class/power_supply/BAT1/type", "Battery"),
            ("sys/class/power_supply/BAT1/present", "0"),
            ("sys/class/power_supply/hidpp_battery_0/type", "Battery"),
            ("sys/class/power_supply/hidpp_battery_0/scope", "Device"),
            ("sys/class/power_supply/AC/type", "Mains"),
        ]);
        let names: Vec<_> = batteries(root.path()).iter().map(Battery::name).collect();
        assert_eq!(names, ["BAT0"]);
    }

    #[test]
    fn power_is_read_in_each_format_of_the_drivers() {
        for (files, watts) in [
            (&[("power_now", "7500000")][..], Some(7.5)),
            (&[("power_now", "-7500000")], Some(7.5)),
            (
                &[("voltage_now", "12000000"), ("current_now", "-500000")],
                Some(6.0),
            ),
            (&[("power_now", "oops"), ("current_now", "1")], None),
        ] {
            let root = sysfs::tree(&[
                ("sys/class/power_supply/BAT0/type", "Battery"),
                ("sys/class/power_supply/BAT0/status", "Discharging"),
            ]);
            for (file, text) in files {
                let file = format!("sys/class/power_supply/BAT0/{file}");
                sysfs::write(root.path(), &file, text);
            }
            assert_eq!(
                batteries(root.path())[0].discharge_watts(),
                watts,
                "{files:?}"
            );
        }
    }

    #[test]
    fn charge_is_converted_at_the_nominal_voltage() {
        let root = sysfs::tree(&[
            ("sys/class/power_supply/BAT0/type", "Battery"),
            ("sys/class/power_supply/BAT0/charge_now", "1000000"),
            ("sys/class/power_supply/BAT0/voltage_now", "10900000"),
        ]);
        let stored = || batteries(root.path())[0].stored();
        assert_eq!(stored(), None);
        sysfs::write(
            root.path(),
            "sys/class/power_supply/BAT0/voltage_min_design",
            "11000000",
        );
        assert_eq!(stored().map(f64::round), Some(39_600.0));
    }

    #[test]
    fn batteries_feed_a_node_alone_when_nothing_is_plugged_in() {
        let root = sysfs::tree(&[
            ("sys/class/power_supply/BAT0/type", "Battery"),
            ("sys/class/power_supply/BAT0/status", "Discharging"),
            ("sys/class/power_supply/BAT1/type", "Battery"),
            ("sys/class/power_supply/BAT1/status", "Not charging"),
            ("sys/class/power_supply/AC/type", "Mains"),
            ("sys/class/power_supply/AC/online", "0"),
        ]);
        let run_on_battery = || feed_node_alone(root.path(), &batteries(root.path()));
        assert!(run_on_battery());
        sysfs::write(root.path(), "sys/class/power_supply/AC/online", "1");
        assert!(!run_on_battery(), "a weak charger is plugged in");
        sysfs::write(root.path(), "sys/class/power_supply/AC/online", "0");
        sysfs::write(
            root.path(),
            "sys/class/power_supply/BAT1/status",
            "Charging",
        );
        assert!(!run_on_battery(), "one battery charges the other");
    }
}
