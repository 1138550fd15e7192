//! Detects that heat slows this node down.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::sysfs;

/// Types of thermal zones whose trip points only trigger notifications and throttle nothing.
const NOTIFICATION_ZONES: &[&str] = &["x86_pkg_temp"];

/// Number of trip points that are checked in each zone.
const MAX_TRIP_POINTS: u32 = 12;

/// Highest plausible temperature in thousandths of a degree Celsius; a higher value means that none
/// is measured.
const MAX_MILLIDEGREES: i64 = 200_000;

/// File in which the firmware of a Raspberry Pi reports throttling (raspberrypi.com, "vcgencmd
/// get_throttled"). Its trip points do not show it.
const RASPBERRY_PI_FILE: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";

/// Bits of that file: currently throttled, and soft temperature limit currently active.
const RASPBERRY_PI_THROTTLED: u32 = 1 << 2 | 1 << 3;

/// Checks whether heat slows the node down.
pub(super) struct ThermalWatcher {
    root: PathBuf,
    /// Throttle count of each processor at the previous check, by file.
    throttle_counts: HashMap<PathBuf, u64>,
}

impl ThermalWatcher {
    /// Creates a watcher for the machine whose `/sys` is below `root`.
    pub(super) fn new(root: &Path) -> Self {
        let mut watcher = Self {
            root: root.to_owned(),
            throttle_counts: HashMap::new(),
        };
        // Throttling before the start is not reported.
        watcher.processor_throttled();
        watcher
    }

    /// Returns what slows the node down because of heat now, or has since the previous check, as a
    /// text for users.
    pub(super) fn check(&mut self) -> Option<String> {
        // Always read, so that the next check compares with this one.
        let throttled = self.processor_throttled();
        throttled
            .then(|| "the processor was throttled by heat".to_owned())
            .or_else(|| self.hot_zone())
            .or_else(|| self.raspberry_pi())
    }

    /// Whether a throttle count has grown since the previous check.
    fn processor_throttled(&mut self) -> bool {
        let mut grown = false;
        let processors = sysfs::entries(&self.root.join("sys/devices/system/cpu"), "cpu");
        for processor in processors {
            for file in ["core_throttle_count", "package_throttle_count"] {
                let path = processor.join("thermal_throttle").join(file);
                let Some(count) = sysfs::count(&path) else {
                    continue;
                };
                let previous = self.throttle_counts.insert(path, count);
                grown |= previous.is_some_and(|previous| count > previous);
            }
        }
        grown
    }

    /// Describes a thermal zone that is past a trip point that throttles.
    fn hot_zone(&self) -> Option<String> {
        let zones = sysfs::entries(&self.root.join("sys/class/thermal"), "thermal_zone");
        zones.iter().find_map(|zone| past_trip_point(zone))
    }

    /// What the firmware of a Raspberry Pi reports.
    fn raspberry_pi(&self) -> Option<String> {
        let text = sysfs::text(&self.root.join(RASPBERRY_PI_FILE)).ok()?;
        let bits = u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()?;
        (bits & RASPBERRY_PI_THROTTLED != 0)
            .then(|| "the firmware of the Raspberry Pi throttles it".to_owned())
    }
}

/// Describes the zone if its temperature is past a trip point that throttles.
fn past_trip_point(zone: &Path) -> Option<String> {
    let text = |file: &str| sysfs::text(&zone.join(file)).unwrap_or_default();
    let name = text("type");
    if NOTIFICATION_ZONES.contains(&name.as_str()) || text("mode") == "disabled" {
        return None;
    }
    let now = sysfs::signed(&zone.join("temp")).filter(|now| *now <= MAX_MILLIDEGREES)?;
    let is_past = |trip: &u32| {
        let throttles = matches!(
            text(&format!("trip_point_{trip}_type")).as_str(),
            "passive" | "hot"
        );
        let limit = sysfs::signed(&zone.join(format!("trip_point_{trip}_temp")));
        // Zero and negative values mean that the trip point is not set.
        throttles && limit.is_some_and(|limit| limit > 0 && now >= limit)
    };
    (0..MAX_TRIP_POINTS)
        .find(is_past)
        .map(|_| format!("{name} is at {} °C", now / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_throttle_count_is_reported_until_it_stops_growing() {
        let file = "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count";
        let root = sysfs::tree(&[(file, "7")]);
        let mut watcher = ThermalWatcher::new(root.path());
        assert_eq!(watcher.check(), None);
        sysfs::write(root.path(), file, "8");
        assert!(watcher.check().unwrap().contains("processor"));
        assert_eq!(watcher.check(), None);
        sysfs::write(root.path(), file, "garbage");
        assert_eq!(watcher.check(), None);
        sysfs::write(root.path(), file, "1");
        assert_eq!(watcher.check(), None, "a reset");
    }

    #[test]
    fn the_first_count_of_a_new_processor_is_not_reported() {
        let root = sysfs::tree(&[]);
        let mut watcher = ThermalWatcher::new(root.path());
        let file = "sys/devices/system/cpu/cpu9/thermal_throttle/package_throttle_count";
        sysfs::write(root.path(), file, "100");
        assert_eq!(watcher.check(), None);
    }

    #[test]
    fn a_zone_is_hot_past_a_trip_point_that_throttles() {
        for (kind, temp, trip, limit, hot) in [
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
                ("sys/class/thermal/thermal_zone0/trip_point_1_temp", limit),
            ]);
            let reason = ThermalWatcher::new(root.path()).check();
            assert_eq!(reason.is_some(), hot, "{kind} {temp} {trip} {limit}");
        }
    }

    #[test]
    fn a_raspberry_pi_reports_current_throttling_only() {
        for (text, hot) in [
            ("0x50005", true),
            ("8", true),
            ("0x50000", false),
            ("x", false),
        ] {
            let root = sysfs::tree(&[(RASPBERRY_PI_FILE, text)]);
            assert_eq!(
                ThermalWatcher::new(root.path()).check().is_some(),
                hot,
                "{text}"
            );
        }
    }
}
