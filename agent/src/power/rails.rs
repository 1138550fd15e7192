//! Power rails of boards: which component a rail feeds, by its name, and which rail feeds another.
//!
//! The names are those of NVIDIA's Jetson boards (Jetson Linux Developer Guide, "Power Consumption":
//! from TX1's `POM_5V_IN` to Thor's `VDD_CPU_SOC_MSS`) and of Apple's SMC under Linux. A rail with an
//! unknown name is not metered, because another rail may feed it.

use super::sensor::SensorChannel;
use super::{ComponentKind, MeterChannel};

/// Rails that feed the whole module or board.
const BOARD_INPUTS: &[&str] = &["VDD_IN", "POM_5V_IN", "POM_5V0_IN", "VIN"];

/// The 5 V rail of AGX boards, which feeds the memory and the components around the chip.
const SYSTEM_RAILS: &[&str] = &["VIN_SYS_5V0", "SYS5V"];
/// The memory rail that the 5 V rail of AGX boards feeds.
const SYSTEM_MEMORY_RAIL: &str = "VDDQ_VDD2_1V8AO";

/// Words in the name of a rail, with the component that the rail counts as. The first match in this
/// order decides, for rails that feed several components: `VDD_CPU_GPU_CV` counts as CPU,
/// `VDD_GPU_SOC` as GPU. CV stands for the vision accelerators, SOC and MSS for the rest of the chip.
const COMPONENT_WORDS: &[(&str, ComponentKind)] = &[
    ("CPU", ComponentKind::Cpu),
    ("GPU", ComponentKind::Gpu),
    ("TOTAL", ComponentKind::Host),
    ("SOC", ComponentKind::Cpu),
    ("MSS", ComponentKind::Cpu),
    ("CV", ComponentKind::Gpu),
    ("VDDRQ", ComponentKind::Memory),
    ("VDDQ", ComponentKind::Memory),
    ("DDR", ComponentKind::Memory),
    ("DRAM", ComponentKind::Memory),
];

/// Returns the component that a rail with this label feeds. `None` if the label is unknown.
pub(super) fn component(label: &str) -> Option<ComponentKind> {
    let name = normalize(label);
    if BOARD_INPUTS.contains(&name.as_str()) {
        return Some(ComponentKind::Host);
    }
    if SYSTEM_RAILS.contains(&name.as_str()) {
        return Some(ComponentKind::Memory);
    }
    let has_word = |word: &str| name.split('_').any(|part| part == word);
    COMPONENT_WORDS
        .iter()
        .find(|(word, _)| has_word(word))
        .map(|(_, kind)| *kind)
}

/// Sets the parent of each rail: the first rail that feeds the whole board.
pub(super) fn set_parents(channels: &mut [SensorChannel]) {
    let id_of_first = |matches: &dyn Fn(&MeterChannel) -> bool| {
        let mut rails = channels.iter().filter(|channel| channel.is_rail);
        rails
            .find(|rail| matches(&rail.channel))
            .map(|rail| rail.channel.id.clone())
    };
    let board = id_of_first(&|rail| rail.kind == ComponentKind::Host);
    let system = id_of_first(&|rail| SYSTEM_RAILS.contains(&normalize(&rail.name).as_str()));
    for rail in channels.iter_mut().filter(|channel| channel.is_rail) {
        let channel = &mut rail.channel;
        let parent = if normalize(&channel.name) == SYSTEM_MEMORY_RAIL {
            system.as_ref().or(board.as_ref())
        } else {
            board.as_ref()
        };
        channel.parent = parent.filter(|id| **id != channel.id).cloned();
    }
}

/// Returns the id of the rail that feeds the chip's own GPU, on a board with rails. It includes the
/// energy that NVML reports for that GPU.
pub(super) fn gpu_rail(channels: &[SensorChannel]) -> Option<String> {
    let rails = || channels.iter().filter(|channel| channel.is_rail);
    rails()
        .find(|rail| rail.channel.kind == ComponentKind::Gpu)
        .or_else(|| rails().find(|rail| normalize(&rail.channel.name).contains("GPU")))
        .or_else(|| rails().find(|rail| rail.channel.kind == ComponentKind::Host))
        .map(|rail| rail.channel.id.clone())
}

/// Normalizes a name for comparison: `VDD IN` and `vdd-in` become `VDD_IN`.
fn normalize(label: &str) -> String {
    label.trim().to_uppercase().replace([' ', '-'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_component_a_rail_feeds() {
        for (label, kind) in [
            ("VDD_IN", Some(ComponentKind::Host)),
            ("VDD IN", Some(ComponentKind::Host)),
            ("POM_5V_IN", Some(ComponentKind::Host)),
            ("Total System Power", Some(ComponentKind::Host)),
            ("Total CPU Core Power", Some(ComponentKind::Cpu)),
            ("VDD_CPU_GPU_CV", Some(ComponentKind::Cpu)),
            ("VDD_CPU_SOC_MSS", Some(ComponentKind::Cpu)),
            ("VDD_GPU_SOC", Some(ComponentKind::Gpu)),
            ("VDD_SOC", Some(ComponentKind::Cpu)),
            ("CV", Some(ComponentKind::Gpu)),
            ("POM_5V_GPU", Some(ComponentKind::Gpu)),
            ("VDD_SYS_DDR", Some(ComponentKind::Memory)),
            ("VDDQ_VDD2_1V8AO", Some(ComponentKind::Memory)),
            ("VIN_SYS_5V0", Some(ComponentKind::Memory)),
            ("VDD_4V0_WIFI", None),
            ("VDD_MUX", None),
            ("NC", None),
            ("sum of shunt voltages", None),
            ("", None),
        ] {
            assert_eq!(component(label), kind, "{label}");
        }
    }
}
