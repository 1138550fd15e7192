//! How the node is apart from its watts: whether it lives off its battery, and whether heat slows it down.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::nvml::Gpus;
use super::power_supply;
use super::thermal::ThermalWatcher;

/// The batteries of a node, as one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatteryState {
    /// How full, from 0 to 1.
    pub charge: f32,
    /// Whether the node lives off it: it is being emptied and nothing else feeds the node.
    pub discharging: bool,
}

/// How a node is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeCondition {
    /// None on a node without one.
    pub battery: Option<BatteryState>,
    /// What slows the node down by heat, now or since the last look, for people; None while nothing does.
    pub throttled: Option<String>,
}

/// Looks at how the node is, now and then.
pub struct ConditionWatcher {
    root: PathBuf,
    heat: ThermalWatcher,
    gpus: Arc<dyn Gpus>,
}

impl ConditionWatcher {
    /// Starts to watch. `root`: `/`, or a folder that looks like it.
    #[must_use]
    pub fn new(root: &Path, gpus: Arc<dyn Gpus>) -> Self {
        Self {
            root: root.to_owned(),
            heat: ThermalWatcher::new(root),
            gpus,
        }
    }

    /// How the node is.
    pub fn check(&mut self) -> NodeCondition {
        let throttled = self.heat.check().or_else(|| self.hot_gpu());
        NodeCondition {
            battery: battery(&self.root),
            throttled,
        }
    }

    fn hot_gpu(&self) -> Option<String> {
        let mut gpus = self.gpus.list().into_iter();
        gpus.find(|gpu| self.gpus.is_hot(&gpu.uuid))
            .map(|gpu| format!("{} is slowed down by heat", gpu.name))
    }
}

/// The batteries as one: as full as they are together, by their sizes where all tell them.
fn battery(root: &Path) -> Option<BatteryState> {
    let batteries = power_supply::batteries(root);
    let sizes: Option<Vec<f64>> = batteries
        .iter()
        .map(power_supply::PowerSupply::size)
        .collect();
    let (mut held, mut room) = (0.0, 0.0);
    for (at, battery) in batteries.iter().enumerate() {
        let size = sizes.as_ref().map_or(1.0, |sizes| sizes[at]);
        if let Some(charge) = battery.charge() {
            held += charge * size;
            room += size;
        }
    }
    (room > 0.0).then(|| BatteryState {
        charge: (held / room) as f32,
        discharging: power_supply::alone(root, &batteries),
    })
}

#[cfg(test)]
mod tests {
    use super::super::nvml::fake::FakeGpu;
    use super::super::sysfs;
    use super::*;

    fn look(files: &[(&str, &str)]) -> NodeCondition {
        let root = sysfs::tree(files);
        ConditionWatcher::new(root.path(), Arc::new(FakeGpu::default())).check()
    }

    #[test]
    fn a_node_without_sensors_is_well() {
        assert_eq!(look(&[]), NodeCondition::default());
    }

    #[test]
    fn batteries_are_as_full_as_they_are_together() {
        let condition = look(&[
            ("sys/class/power_supply/BAT0/type", "Battery"),
            ("sys/class/power_supply/BAT0/status", "Discharging"),
            ("sys/class/power_supply/BAT0/capacity", "100"),
            ("sys/class/power_supply/BAT0/energy_full", "30000000"),
            ("sys/class/power_supply/BAT1/type", "Battery"),
            ("sys/class/power_supply/BAT1/capacity", "20"),
            ("sys/class/power_supply/BAT1/energy_full", "10000000"),
        ]);
        let battery = condition.battery.unwrap();
        assert!((battery.charge - 0.8).abs() < 1e-6);
        assert!(battery.discharging);
    }

    #[test]
    fn a_battery_that_does_not_tell_how_full_is_none() {
        for capacity in ["", "101", "-1"] {
            let condition = look(&[
                ("sys/class/power_supply/BAT0/type", "Battery"),
                ("sys/class/power_supply/BAT0/capacity", capacity),
            ]);
            assert_eq!(condition.battery, None, "{capacity}");
        }
    }

    #[test]
    fn a_hot_gpu_throttles_the_node() {
        let root = sysfs::tree(&[]);
        let mut gpus = FakeGpu::one(Some(1), None);
        gpus.hot = true;
        let mut watcher = ConditionWatcher::new(root.path(), Arc::new(gpus));
        assert_eq!(
            watcher.check().throttled.as_deref(),
            Some("Fake is slowed down by heat")
        );
    }
}
