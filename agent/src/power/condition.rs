//! The condition of the node: its batteries, and whether heat slows it down.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::nvml::Gpus;
use super::power_supply;
use super::thermal::ThermalWatcher;

/// The state of all batteries of a node together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatteryState {
    /// State of charge, from 0 (empty) to 1 (full).
    pub charge: f32,
    /// Whether the node runs on battery: a battery discharges and no other supply feeds the node.
    pub discharging: bool,
}

/// Battery and thermal state of a node.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeCondition {
    /// The batteries; `None` on a node without one.
    pub battery: Option<BatteryState>,
    /// What slows the node down because of heat, now or since the previous check, as a text for
    /// users. `None` while nothing does.
    pub throttled: Option<String>,
}

/// Checks the condition of the node.
pub struct ConditionWatcher {
    root: PathBuf,
    thermal: ThermalWatcher,
    gpus: Arc<dyn Gpus>,
}

impl ConditionWatcher {
    /// Creates a watcher for the machine whose `/sys` is below `root`: `/`, except in tests.
    #[must_use]
    pub fn new(root: &Path, gpus: Arc<dyn Gpus>) -> Self {
        Self {
            root: root.to_owned(),
            thermal: ThermalWatcher::new(root),
            gpus,
        }
    }

    /// Returns the current condition.
    pub fn check(&mut self) -> NodeCondition {
        let throttled = self.thermal.check().or_else(|| self.hot_gpu());
        NodeCondition {
            battery: battery(&self.root),
            throttled,
        }
    }

    fn hot_gpu(&self) -> Option<String> {
        let mut gpus = self.gpus.list().into_iter();
        gpus.find(|gpu| self.gpus.is_thermally_throttled(&gpu.uuid))
            .map(|gpu| format!("{} is throttled by heat", gpu.name))
    }
}

/// Combines all batteries into one: the mean charge, weighted by capacity when every battery
/// reports its capacity.
fn battery(root: &Path) -> Option<BatteryState> {
    let batteries = power_supply::batteries(root);
    let capacities: Option<Vec<f64>> = batteries
        .iter()
        .map(power_supply::Battery::capacity)
        .collect();
    let (mut stored, mut total) = (0.0, 0.0);
    for (index, battery) in batteries.iter().enumerate() {
        let capacity = capacities.as_ref().map_or(1.0, |all| all[index]);
        if let Some(charge) = battery.charge() {
            stored += charge * capacity;
            total += capacity;
        }
    }
    (total > 0.0).then(|| BatteryState {
        charge: (stored / total) as f32,
        discharging: power_supply::feed_node_alone(root, &batteries),
    })
}

#[cfg(test)]
mod tests {
    use super::super::nvml::fake::FakeGpu;
    use super::super::sysfs;
    use super::*;

    fn check(files: &[(&str, &str)]) -> NodeCondition {
        let root = sysfs::tree(files);
        ConditionWatcher::new(root.path(), Arc::new(FakeGpu::default())).check()
    }

    #[test]
    fn a_node_without_sensors_has_the_default_condition() {
        assert_eq!(check(&[]), NodeCondition::default());
    }

    #[test]
    fn charge_of_several_batteries_is_weighted_by_capacity() {
        let condition = check(&[
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
    fn a_battery_without_a_valid_charge_is_ignored() {
        for capacity in ["", "101", "-1"] {
            let condition = check(&[
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
        gpus.throttled = true;
        let mut watcher = ConditionWatcher::new(root.path(), Arc::new(gpus));
        assert_eq!(
            watcher.check().throttled.as_deref(),
            Some("Fake is throttled by heat")
        );
    }
}
