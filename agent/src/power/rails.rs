//! What the rails of a board feed, by their names, and which are in which.
//!
//! Names are those of NVIDIA's Jetson boards (Jetson Linux Developer Guide, "Power Consumption": from
//! TX1's `POM_5V_IN` to Thor's `VDD_CPU_SOC_MSS`) and of Apple's SMC under Linux. A rail whose name says
//! nothing here is left out: it may be a part of another.

use super::ComponentKind;
use super::sensor::SensorChannel;

/// Rails that feed the whole module or board.
const WHOLE: &[&str] = &["VDD_IN", "POM_5V_IN", "POM_5V0_IN", "VIN"];

/// The 5 V rail of AGX boards, for memory and what is around the chip, and the memory rail in it.
const SYSTEM: &[&str] = &["VIN_SYS_5V0", "SYS5V"];
const IN_SYSTEM: &str = "VDDQ_VDD2_1V8AO";

/// Words in a rail's name, with what such a rail feeds. The first that fits decides: `VDD_CPU_GPU_CV`
/// feeds the processor too, `VDD_GPU_SOC` the GPU first of all. CV is the vision accelerators, SOC and
/// MSS the rest of the chip.
const WORDS: &[(&str, ComponentKind)] = &[
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

/// What a rail with this name feeds, where the name tells.
pub(super) fn kind(label: &str) -> Option<ComponentKind> {
    let name = plain(label);
    if WHOLE.contains(&name.as_str()) {
        return Some(ComponentKind::Host);
    }
    if SYSTEM.contains(&name.as_str()) {
        return Some(ComponentKind::Memory);
    }
    let fits = |word: &str| name.split('_').any(|part| part == word);
    let found = WORDS.iter().find(|(word, _)| fits(word));
    found.map(|(_, kind)| *kind)
}

/// Says which rails are in which: all in the first that feeds the whole board.
pub(super) fn relate(parts: &mut [SensorChannel]) {
    let id_of = |wanted: &dyn Fn(&SensorChannel) -> bool| {
        let found = parts.iter().find(|part| part.rail && wanted(part));
        found.map(|part| part.channel.id.clone())
    };
    let whole = id_of(&|part| part.channel.kind == ComponentKind::Host);
    let system = id_of(&|part| SYSTEM.contains(&plain(&part.channel.name).as_str()));
    for part in parts.iter_mut().filter(|part| part.rail) {
        let channel = &mut part.channel;
        let within = if plain(&channel.name) == IN_SYSTEM {
            system.as_ref().or(whole.as_ref())
        } else {
            whole.as_ref()
        };
        channel.parent = within.filter(|id| **id != channel.id).cloned();
    }
}

/// The rail that has the chip's own GPU in it, on a board with rails: what NVML says of that GPU is in
/// the rail already.
pub(super) fn of_gpu(parts: &[SensorChannel]) -> Option<String> {
    let rails = || parts.iter().filter(|part| part.rail);
    rails()
        .find(|part| part.channel.kind == ComponentKind::Gpu)
        .or_else(|| rails().find(|part| plain(&part.channel.name).contains("GPU")))
        .or_else(|| rails().find(|part| part.channel.kind == ComponentKind::Host))
        .map(|part| part.channel.id.clone())
}

/// A name as it is compared: `VDD IN` and `vdd-in` are `VDD_IN`.
fn plain(label: &str) -> String {
    label.trim().to_uppercase().replace([' ', '-'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_is_fed() {
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
            assert_eq!(super::kind(label), kind, "{label}");
        }
    }
}
