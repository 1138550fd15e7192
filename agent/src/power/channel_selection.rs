//! Which channels together are what the node draws, with nothing counted twice.
//!
//! From the best down:
//! 1. the batteries, while the node lives off them: all that it draws comes out of them;
//! 2. sensors of the whole board (a Jetson's `VDD_IN`, an ACPI power meter, Apple's SMC): they have all
//!    that the board feeds in them, GPUs on its slots too;
//! 3. the processor's `psys` counter, on a node without a GPU of its own;
//! 4. packages, memory and GPUs, each once.
//!
//! What `psys` covers is the maker's choice: on laptops the whole machine, on others less than the
//! slots. Kepler puts psys before packages and adds GPUs to it; CodeCarbon (`rapl_prefer_psys` off) and
//! Zeus leave it aside. Here a GPU of its own decides against psys: packages, memory and GPUs are known
//! not to overlap, and what is left out is the small rest of the board, where psys would count the GPU
//! twice or not at all.

use flotilla_core::energy::EnergySource;

use super::{ComponentKind, MeterChannel};

/// The channels that are the node's draw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelSelection {
    /// Their places among the channels that were asked about, ascending. Empty where nothing is metered.
    pub channels: Vec<usize>,
    /// Whether the processor's draw is in them: with NVIDIA's counters alone it is not.
    pub covers_cpu: bool,
}

/// Picks the channels whose sum is the node's draw. `on_battery`: what [`on_battery`] says of the reading
/// that is to be summed.
#[must_use]
pub fn select(channels: &[MeterChannel], on_battery: bool) -> ChannelSelection {
    let pick = |wanted: &dyn Fn(&MeterChannel) -> bool| -> Vec<usize> {
        let picked = channels.iter().enumerate();
        picked
            .filter(|(_, channel)| wanted(channel))
            .map(|(at, _)| at)
            .collect()
    };
    // A parent that is not among the channels cannot stand for its parts.
    let whole = |channel: &MeterChannel| {
        let parent = channel.parent.as_ref();
        parent.is_none_or(|parent| channels.iter().all(|other| other.id != *parent))
    };
    let picked = pick(&|channel| on_battery && channel.kind == ComponentKind::Battery);
    if !picked.is_empty() {
        return covering(picked);
    }
    let board = |channel: &MeterChannel| {
        channel.kind == ComponentKind::Host && channel.source != EnergySource::Rapl
    };
    let picked = pick(&|channel| board(channel) && whole(channel));
    if !picked.is_empty() {
        return covering(picked);
    }
    let parts = pick(&|channel| {
        matches!(
            channel.kind,
            ComponentKind::Cpu | ComponentKind::Memory | ComponentKind::Gpu
        ) && whole(channel)
    });
    let any = |kind| parts.iter().any(|at| channels[*at].kind == kind);
    let platform = pick(&|channel| channel.kind == ComponentKind::Host && whole(channel));
    let parts_are_better = any(ComponentKind::Cpu) && any(ComponentKind::Gpu);
    if !platform.is_empty() && !parts_are_better {
        return covering(platform);
    }
    ChannelSelection {
        covers_cpu: any(ComponentKind::Cpu),
        channels: parts,
    }
}

/// Whether the node lived off its batteries all the time since the read before: their channel tells only
/// then. `joules`: what the channels have read, in their order.
#[must_use]
pub fn on_battery(channels: &[MeterChannel], joules: &[Option<f64>]) -> bool {
    let mut read = channels.iter().zip(joules);
    read.any(|(channel, joules)| channel.kind == ComponentKind::Battery && joules.is_some())
}

/// A selection of the whole node.
fn covering(channels: Vec<usize>) -> ChannelSelection {
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

    fn picked(channels: &[MeterChannel], on_battery: bool) -> Vec<&str> {
        let selection = select(channels, on_battery);
        let picked = selection.channels.into_iter();
        picked.map(|at| channels[at].id.as_str()).collect()
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
    fn a_laptop_on_battery_is_its_battery() {
        assert_eq!(picked(&laptop(), true), ["battery"]);
        assert!(select(&laptop(), true).covers_cpu);
    }

    #[test]
    fn psys_stands_for_a_node_without_a_gpu_of_its_own() {
        assert_eq!(picked(&laptop(), false), ["psys"]);
        let mut channels = laptop();
        channels.retain(|channel| channel.id != "psys");
        assert_eq!(picked(&channels, false), ["package", "dram"]);
    }

    #[test]
    fn a_gpu_of_its_own_decides_against_psys() {
        let mut channels = laptop();
        channels.push(channel("gpu", ComponentKind::Gpu, EnergySource::Nvml, None));
        assert_eq!(picked(&channels, false), ["package", "dram", "gpu"]);
        channels.retain(|channel| channel.id == "psys" || channel.id == "gpu");
        assert_eq!(picked(&channels, false), ["psys"]);
    }

    #[test]
    fn a_board_covers_all_on_it() {
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
        assert_eq!(picked(&channels, false), ["board"]);
        assert_eq!(picked(&channels, true), ["battery"]);
    }

    #[test]
    fn a_part_counts_where_its_whole_is_not_metered() {
        let core = [channel(
            "core",
            ComponentKind::Cpu,
            EnergySource::Rapl,
            Some("package"),
        )];
        assert_eq!(picked(&core, false), ["core"]);
    }

    #[test]
    fn a_battery_that_says_nothing_is_not_picked() {
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
