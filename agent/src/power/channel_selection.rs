//! Selects the channels whose sum is the node's draw, with nothing counted twice.
//!
//! The first of these that is metered is used:
//! 1. the batteries, while the node runs on them: its whole draw comes out of them;
//! 2. sensors of the whole board (a Jetson's `VDD_IN`, an ACPI power meter, Apple's SMC): they include
//!    everything that the board feeds, GPUs in its slots too;
//! 3. the processor's `psys` counter, on a node without a discrete GPU;
//! 4. packages, memory and GPUs, each once.
//!
//! What `psys` covers is the manufacturer's choice: the whole machine on laptops, less than the slots on
//! others. Kepler prefers psys to packages and adds GPUs to it; CodeCarbon (`rapl_prefer_psys` off) and
//! Zeus ignore it. Here a discrete GPU decides against psys: packages, memory and GPUs do not overlap
//! and miss only the small rest of the board, while psys would count the GPU twice or not at all.

use flotilla_core::energy::EnergySource;

use super::{ComponentKind, MeterChannel};

/// The channels whose sum is the node's draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelSelection {
    /// Indices of the selected channels, ascending. Empty if nothing is metered.
    pub channels: Vec<usize>,
    /// Whether they include the processors: GPU counters alone do not.
    pub covers_cpu: bool,
}

/// Selects the channels whose sum is the node's draw. `on_battery`: the result of [`on_battery`] for
/// the values that are to be added up.
#[must_use]
pub fn select(channels: &[MeterChannel], on_battery: bool) -> ChannelSelection {
    let indices = |matches: &dyn Fn(&MeterChannel) -> bool| -> Vec<usize> {
        let channels = channels.iter().enumerate();
        channels
            .filter(|(_, channel)| matches(channel))
            .map(|(index, _)| index)
            .collect()
    };
    // A channel also counts if its parent is not metered.
    let is_top_level = |channel: &MeterChannel| {
        let parent = channel.parent.as_ref();
        parent.is_none_or(|parent| channels.iter().all(|other| other.id != *parent))
    };
    let batteries = indices(&|channel| on_battery && channel.kind == ComponentKind::Battery);
    if !batteries.is_empty() {
        return whole_node(batteries);
    }
    let is_board = |channel: &MeterChannel| {
        channel.kind == ComponentKind::Host && channel.source != EnergySource::Rapl
    };
    let boards = indices(&|channel| is_board(channel) && is_top_level(channel));
    if !boards.is_empty() {
        return whole_node(boards);
    }
    let components = indices(&|channel| {
        matches!(
            channel.kind,
            ComponentKind::Cpu | ComponentKind::Memory | ComponentKind::Gpu
        ) && is_top_level(channel)
    });
    let has = |kind| components.iter().any(|index| channels[*index].kind == kind);
    let platform = indices(&|channel| channel.kind == ComponentKind::Host && is_top_level(channel));
    let prefer_components = has(ComponentKind::Cpu) && has(ComponentKind::Gpu);
    if !platform.is_empty() && !prefer_components {
        return whole_node(platform);
    }
    ChannelSelection {
        covers_cpu: has(ComponentKind::Cpu),
        channels: components,
    }
}

/// Returns whether the node ran on battery since the previous read: only then has the batteries'
/// channel a value. `joules`: the values read from the channels, in their order.
#[must_use]
pub fn on_battery(channels: &[MeterChannel], joules: &[Option<f64>]) -> bool {
    let mut values = channels.iter().zip(joules);
    values.any(|(channel, joules)| channel.kind == ComponentKind::Battery && joules.is_some())
}

/// A selection that covers the whole node.
fn whole_node(channels: Vec<usize>) -> ChannelSelection {
    ChannelSelection {
        channels,
        covers_cpu: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(
        id: &str,
        kind: ComponentKind,
        source: EnergySource,
        parent: Option<&str>,
    ) -> MeterChannel {
        MeterChannel {
            id: id.into(),
            name: id.into(),
            kind,
            source,
            resolution: 0.0,
            period: 0.0,
            parent: parent.map(Into::into),
        }
    }

    fn selected(channels: &[MeterChannel], on_battery: bool) -> Vec<&str> {
        let selection = select(channels, on_battery);
        let indices = selection.channels.into_iter();
        indices.map(|index| channels[index].id.as_str()).collect()
    }

    fn laptop() -> Vec<MeterChannel> {
        vec![
            channel("package", ComponentKind::Cpu, EnergySource::Rapl, None),
            channel(
                "core",
                ComponentKind::Cpu,
                EnergySource::Rapl,
                Some("package"),
            ),
            channel(
                "uncore",
                ComponentKind::Gpu,
                EnergySource::Rapl,
                Some("package"),
            ),
            channel("dram", ComponentKind::Memory, EnergySource::Rapl, None),
            channel("psys", ComponentKind::Host, EnergySource::Rapl, None),
            channel(
                "battery",
                ComponentKind::Battery,
                EnergySource::Battery,
                None,
            ),
        ]
    }

    #[test]
    fn a_node_on_battery_is_metered_by_its_battery() {
        assert_eq!(selected(&laptop(), true), ["battery"]);
        assert!(select(&laptop(), true).covers_cpu);
    }

    #[test]
    fn psys_is_used_without_a_discrete_gpu() {
        assert_eq!(selected(&laptop(), false), ["psys"]);
        let mut channels = laptop();
        channels.retain(|channel| channel.id != "psys");
        assert_eq!(selected(&channels, false), ["package", "dram"]);
    }

    #[test]
    fn components_are_used_instead_of_psys_with_a_discrete_gpu() {
        let mut channels = laptop();
        channels.push(channel("gpu", ComponentKind::Gpu, EnergySource::Nvml, None));
        assert_eq!(selected(&channels, false), ["package", "dram", "gpu"]);
        channels.retain(|channel| channel.id == "psys" || channel.id == "gpu");
        assert_eq!(selected(&channels, false), ["psys"]);
    }

    #[test]
    fn a_board_sensor_covers_all_components() {
        let mut channels = laptop();
        channels.push(channel("gpu", ComponentKind::Gpu, EnergySource::Nvml, None));
        channels.push(channel(
            "board",
            ComponentKind::Host,
            EnergySource::Hwmon,
            None,
        ));
        channels.push(channel(
            "part",
            ComponentKind::Host,
            EnergySource::Hwmon,
            Some("board"),
        ));
        assert_eq!(selected(&channels, false), ["board"]);
        assert_eq!(selected(&channels, true), ["battery"]);
    }

    #[test]
    fn a_component_counts_when_its_parent_is_not_metered() {
        let core = [channel(
            "core",
            ComponentKind::Cpu,
            EnergySource::Rapl,
            Some("package"),
        )];
        assert_eq!(selected(&core, false), ["core"]);
    }

    #[test]
    fn a_battery_without_a_value_is_not_selected() {
        let channels = laptop();
        let mut joules = vec![Some(1.0); channels.len()];
        assert!(on_battery(&channels, &joules));
        joules[5] = None;
        assert!(!on_battery(&channels, &joules));
        let alone = [channel(
            "battery",
            ComponentKind::Battery,
            EnergySource::Battery,
            None,
        )];
        let selection = select(&alone, false);
        assert!(selection.channels.is_empty() && !selection.covers_cpu);
    }
}
