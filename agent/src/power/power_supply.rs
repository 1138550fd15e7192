//! The batteries of this node and what else feeds it, as Linux' power supplies show them.

use std::path::{Path, PathBuf};

use super::sysfs;

/// The batteries of the node itself: not of its mouse, whose scope is its device.
pub(super) fn batteries(root: &Path) -> Vec<PowerSupply> {
    let supplies = supplies(root).into_iter();
    supplies
        .filter(|folder| word(folder, "type") == "Battery")
        .filter(|folder| sysfs::count(&folder.join("present")) != Some(0))
        .map(|folder| PowerSupply { folder })
        .collect()
}

/// Whether these batteries are all that feeds the node: one is being emptied, none filled, and nothing
/// is plugged in that gives power.
pub(super) fn alone(root: &Path, batteries: &[PowerSupply]) -> bool {
    let is = |wanted: &str| batteries.iter().any(|battery| battery.status() == wanted);
    let plugged = |folder: &PathBuf| {
        matches!(word(folder, "type").as_str(), "Mains" | "USB" | "Wireless")
            && sysfs::count(&folder.join("online")).is_some_and(|online| online > 0)
    };
    is("Discharging") && !is("Charging") && !supplies(root).iter().any(plugged)
}

/// All supplies of the node itself.
fn supplies(root: &Path) -> Vec<PathBuf> {
    let mut supplies = sysfs::entries(&root.join("sys/class/power_supply"), "");
    supplies.retain(|folder| word(folder, "scope") != "Device");
    supplies
}

fn word(folder: &Path, file: &str) -> String {
    sysfs::text(&folder.join(file)).unwrap_or_default()
}

/// A battery.
pub(super) struct PowerSupply {
    folder: PathBuf,
}

impl PowerSupply {
    pub(super) fn name(&self) -> String {
        sysfs::name(&self.folder)
    }

    fn status(&self) -> String {
        word(&self.folder, "status")
    }

    /// How full it is, from 0 to 1.
    pub(super) fn charge(&self) -> Option<f64> {
        let percent = self.count("capacity").filter(|percent| *percent <= 100)?;
        Some(percent as f64 / 100.0)
    }

    /// What it can hold when full, in joules, where it tells.
    pub(super) fn size(&self) -> Option<f64> {
        self.amount("energy_full", "charge_full")
    }

    /// What it holds now, in joules.
    pub(super) fn stored(&self) -> Option<f64> {
        self.amount("energy_now", "charge_now")
    }

    /// Whether it has a power sensor at all.
    pub(super) fn has_power(&self) -> bool {
        let has = |file: &str| self.folder.join(file).exists();
        has("power_now") || has("voltage_now") && has("current_now")
    }

    /// What is taken out of it, in watts: none unless it is being emptied. Drivers do not agree on the
    /// sign.
    pub(super) fn watts(&self) -> Option<f64> {
        if self.status() != "Discharging" {
            return Some(0.0);
        }
        if let Some(microwatts) = sysfs::signed(&self.folder.join("power_now")) {
            return Some(microwatts.unsigned_abs() as f64 * 1e-6);
        }
        let microamperes = sysfs::signed(&self.folder.join("current_now"))?.unsigned_abs();
        Some(self.volts("voltage_now")? * microamperes as f64 * 1e-6)
    }

    /// An amount of energy in joules, from a file in microwatt-hours or one in microampere-hours. The
    /// latter are taken at the voltage that the battery was made for: its voltage now falls with each
    /// load, and energy would seem to come and go.
    fn amount(&self, energy: &str, charge: &str) -> Option<f64> {
        const SECONDS: f64 = 3600.0;
        if let Some(energy) = self.count(energy) {
            return Some(energy as f64 * 1e-6 * SECONDS);
        }
        Some(self.count(charge)? as f64 * 1e-6 * SECONDS * self.volts("voltage_min_design")?)
    }

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
    fn a_mouse_and_an_empty_bay_are_no_batteries_of_the_node() {
        let root = sysfs::tree(&[
            ("sys/class/power_supply/BAT0/type", "Battery"),
            ("sys/class/power_supply/BAT1/type", "Battery"),
            ("sys/class/power_supply/BAT1/present", "0"),
            ("sys/class/power_supply/hidpp_battery_0/type", "Battery"),
            ("sys/class/power_supply/hidpp_battery_0/scope", "Device"),
            ("sys/class/power_supply/AC/type", "Mains"),
        ]);
        let names: Vec<_> = batteries(root.path())
            .iter()
            .map(PowerSupply::name)
            .collect();
        assert_eq!(names, ["BAT0"]);
    }

    #[test]
    fn power_is_read_in_each_way_that_drivers_tell_it() {
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
            assert_eq!(batteries(root.path())[0].watts(), watts, "{files:?}");
        }
    }

    #[test]
    fn charge_is_energy_at_the_voltage_that_the_battery_was_made_for() {
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
    fn batteries_alone_feed_a_node_with_nothing_plugged_in() {
        let root = sysfs::tree(&[
            ("sys/class/power_supply/BAT0/type", "Battery"),
            ("sys/class/power_supply/BAT0/status", "Discharging"),
            ("sys/class/power_supply/BAT1/type", "Battery"),
            ("sys/class/power_supply/BAT1/status", "Not charging"),
            ("sys/class/power_supply/AC/type", "Mains"),
            ("sys/class/power_supply/AC/online", "0"),
        ]);
        let fed_by_them = || alone(root.path(), &batteries(root.path()));
        assert!(fed_by_them());
        sysfs::write(root.path(), "sys/class/power_supply/AC/online", "1");
        assert!(!fed_by_them(), "the charger is too weak");
        sysfs::write(root.path(), "sys/class/power_supply/AC/online", "0");
        sysfs::write(
            root.path(),
            "sys/class/power_supply/BAT1/status",
            "Charging",
        );
        assert!(!fed_by_them(), "one fills the other");
    }
}
