//! Whether heat slows this node down, and what says so.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::sysfs;

/// Zones whose trip points are thresholds for a notice that anybody may set, and slow nothing down.
const NOTICES: &[&str] = &["x86_pkg_temp"];

/// Most trip points that a zone is looked through for.
const TRIPS: u32 = 12;

/// Hottest trip point that is believed, in thousandths of a degree: what is above is not set.
const HOTTEST: i64 = 200_000;

/// Where a Raspberry Pi's firmware tells what holds it back (raspberrypi.com, "vcgencmd get_throttled"):
/// its kernel's trip points do not say.
const RASPBERRY: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";

/// Bits of it: throttled now, and the soft temperature limit is active now.
const RASPBERRY_HOT: u32 = 1 << 2 | 1 << 3;

/// Watches for heat.
pub(super) struct ThermalWatcher {
    root: PathBuf,
    /// How often each processor says that it was slowed down.
    counts: HashMap<PathBuf, u64>,
}

impl ThermalWatcher {
    pub(super) fn new(root: &Path) -> Self {
        let mut heat = Self {
            root: root.to_owned(),
            counts: HashMap::new(),
        };
        // What happened before is not news.
        heat.processor_slowed();
        heat
    }

    /// What slows the node down by heat now, or has since the last look.
    pub(super) fn check(&mut self) -> Option<String> {
        // Always, so that the next look compares with this one.
        let slowed = self.processor_slowed();
        slowed
            .then(|| "the processor was slowed down by heat".to_owned())
            .or_else(|| self.hot_zone())
            .or_else(|| self.raspberry())
    }

    /// Whether a count of slow-downs has grown since the last look.
    fn processor_slowed(&mut self) -> bool {
        let mut grown = false;
        let processors = sysfs::entries(&self.root.join("sys/devices/system/cpu"), "cpu");
        for processor in processors {
            for file in ["core_throttle_count", "package_throttle_count"] {
                let path = processor.join("thermal_throttle").join(file);
                let Some(count) = sysfs::count(&path) else {
                    continue;
                };
                let before = self.counts.insert(path, count);
                grown |= before.is_some_and(|before| count > before);
            }
        }
        grown
    }

    /// A zone that is past the point where it slows something down.
    fn hot_zone(&self) -> Option<String> {
        let zones = sysfs::entries(&self.root.join("sys/class/thermal"), "thermal_zone");
        zones.iter().find_map(|zone| past_trip(zone))
    }

    fn raspberry(&self) -> Option<String> {
        let text = sysfs::text(&self.root.join(RASPBERRY)).ok()?;
        let bits = u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()?;
        (bits & RASPBERRY_HOT != 0).then(|| "the Raspberry Pi's firmware holds it back".to_owned())
    }
}

fn past_trip(zone: &Path) -> Option<String> {
    let text = |file: &str| sysfs::text(&zone.join(file)).unwrap_or_default();
    let name = text("type");
    if NOTICES.contains(&name.as_str()) || text("mode") == "disabled" {
        return None;
    }
    let now = sysfs::signed(&zone.join("temp")).filter(|now| *now <= HOTTEST)?;
    let past = |trip: &u32| {
        let slows = matches!(
            text(&format!("trip_point_{trip}_type")).as_str(),
            "passive" | "hot"
        );
        let at = sysfs::signed(&zone.join(format!("trip_point_{trip}_temp")));
        // Zero and below stand for a point that is not set.
        slows && at.is_some_and(|at| at > 0 && now >= at)
    };
    (0..TRIPS)
        .find(past)
        .map(|_| format!("{name} is at {} °C", now / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_grows_is_heat_until_it_rests() {
        let file = "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count";
        let root = sysfs::tree(&[(file, "7")]);
        let mut heat = ThermalWatcher::new(root.path());
        assert_eq!(heat.check(), None);
        sysfs::write(root.path(), file, "8");
        assert!(heat.check().unwrap().contains("processor"));
        assert_eq!(heat.check(), None);
        sysfs::write(root.path(), file, "garbage");
        assert_eq!(heat.check(), None);
        sysfs::write(root.path(), file, "1");
        assert_eq!(heat.check(), None, "a reset");
    }

    #[test]
    fn a_processor_that_comes_later_is_not_hot_at_once() {
        let root = sysfs::tree(&[]);
        let mut heat = ThermalWatcher::new(root.path());
        let file = "sys/devices/system/cpu/cpu9/thermal_throttle/package_throttle_count";
        sysfs::write(root.path(), file, "100");
        assert_eq!(heat.check(), None);
    }

    #[test]
    fn a_zone_is_hot_past_what_slows_it_down() {
        for (kind, temp, trip, at, hot) in [
            ("cpu-thermal", "85000", "passive", "80000", true),
            ("cpu-thermal", "79000", "passive", "80000", false),
            ("cpu-thermal", "85000", "hot", "80000", true),
            ("cpu-thermal", "85000", "active", "80000", false),
            ("cpu-thermal", "85000", "passive", "0", false),
            ("cpu-thermal", "85000", "passive", "-274000", false),
            ("cpu-thermal", "2147483647", "passive", "80000", false),
            ("cpu-thermal", "", "passive", "80000", false),
            ("x86_pkg_temp", "85000", "passive", "80000", false),
        ] {
            let root = sysfs::tree(&[
                ("sys/class/thermal/thermal_zone0/type", kind),
                ("sys/class/thermal/thermal_zone0/temp", temp),
                (
                    "sys/class/thermal/thermal_zone0/trip_point_0_type",
                    "critical",
                ),
                ("sys/class/thermal/thermal_zone0/trip_point_0_temp", "1"),
                ("sys/class/thermal/thermal_zone0/trip_point_1_type", trip),
                ("sys/class/thermal/thermal_zone0/trip_point_1_temp", at),
            ]);
            let why = ThermalWatcher::new(root.path()).check();
            assert_eq!(why.is_some(), hot, "{kind} {temp} {trip} {at}");
        }
    }

    #[test]
    fn a_raspberry_tells_what_is_now_not_what_was() {
        for (text, hot) in [
            ("0x50005", true),
            ("8", true),
            ("0x50000", false),
            ("x", false),
        ] {
            let root = sysfs::tree(&[(RASPBERRY, text)]);
            assert_eq!(
                ThermalWatcher::new(root.path()).check().is_some(),
                hot,
                "{text}"
            );
        }
    }
}
