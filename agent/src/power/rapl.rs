//! The processor's own energy counters, as Linux' powercap shows them. AMD's are there under the same
//! name as Intel's.
//!
//! Zones: `package-N` (sockets or dies), with `core` and `uncore` as parts of it and `dram`, which is not
//! in it; and `psys` beside the packages, of the platform. `intel-rapl-mmio` tells the same packages over
//! another way and is read only where the first is missing.

use std::io;
use std::path::{Path, PathBuf};

use super::counter::EnergyCounter;
use flotilla_core::energy::EnergySource;

use super::{ComponentKind, Meter, MeterChannel, sysfs};

/// Seconds between two updates of the counters: about a millisecond (Intel's Software Developer's Manual,
/// volume 3, "RAPL Interfaces").
const PERIOD: f64 = 0.001;

/// Values of a counter: the registers have 32 bits, and `max_energy_range_uj` is the joules of all of them
/// (linux/drivers/powercap/intel_rapl_common.c).
const VALUES: f64 = 4_294_967_296.0;

/// No package or its memory draws more, in watts: four times what the largest of 2025 do (500 W).
const MOST: f64 = 2000.0;

/// No node that has `psys` draws more, in watts.
const MOST_PLATFORM: f64 = 10_000.0;

/// What to do where the counters are for root only.
const FORBIDDEN: &str = "RAPL's energy counters are for root only (CVE-2020-8694): run `sudo chmod a+r /sys/class/powercap/intel-rapl*:*/energy_uj` (anew after each boot), or give the agent CAP_DAC_READ_SEARCH";

/// What to do where a container hides them.
const HIDDEN: &str = "RAPL's energy counters are hidden in this container: mount /sys/devices/virtual/powercap into it read-only";

/// What was found, and what to do about what cannot be read.
pub(super) struct DetectedRapl {
    pub(super) meter: Option<Rapl>,
    pub(super) hint: Option<String>,
}

/// Looks for zones.
pub(super) fn find(root: &Path) -> DetectedRapl {
    find_by(root, sysfs::number)
}

/// Looks for zones whose counters are read so.
fn find_by(root: &Path, read: impl Fn(&Path) -> io::Result<i64>) -> DetectedRapl {
    let (mut rapl, mut hint) = (Rapl::default(), None);
    let folder = root.join("sys/class/powercap");
    for control in ["intel-rapl:", "intel-rapl-mmio:"] {
        for zone in sysfs::entries(&folder, control) {
            match sysfs::text(&zone.join("name")) {
                Ok(name) => {
                    if let Err(io::ErrorKind::PermissionDenied) = rapl.add(&zone, &name, &read) {
                        hint = Some(FORBIDDEN.to_owned());
                    }
                }
                // Zones are links. In containers what they lead to is hidden.
                Err(error) if error.kind() == io::ErrorKind::NotFound && zone.is_symlink() => {
                    hint = Some(HIDDEN.to_owned());
                }
                Err(error) => tracing::debug!(%error, zone = %zone.display(), "a zone has no name"),
            }
        }
        if !rapl.channels.is_empty() {
            break;
        }
    }
    DetectedRapl {
        meter: (!rapl.channels.is_empty()).then_some(rapl),
        hint,
    }
}

/// The zones of a machine.
#[derive(Default)]
pub(super) struct Rapl {
    channels: Vec<MeterChannel>,
    zones: Vec<(PathBuf, EnergyCounter)>,
}

impl Rapl {
    /// The id of the first package.
    pub(super) fn package(&self) -> Option<String> {
        let mut channels = self.channels.iter();
        channels
            .find(|channel| channel.kind == ComponentKind::Cpu && channel.parent.is_none())
            .map(|channel| channel.id.clone())
    }

    /// Adds a zone, where it is one that is metered.
    fn add(
        &mut self,
        zone: &Path,
        name: &str,
        read: impl Fn(&Path) -> io::Result<i64>,
    ) -> Result<(), io::ErrorKind> {
        let outer = self.outer(zone);
        let Some((kind, most)) = kind(name) else {
            return Ok(());
        };
        let path = zone.join("energy_uj");
        let value = read(&path).map_err(|error| error.kind())?;
        // Many processors have a platform counter that no board feeds: it stays at zero.
        if kind == ComponentKind::Host && value == 0 {
            return Ok(());
        }
        let Some(range) =
            sysfs::count(&zone.join("max_energy_range_uj")).filter(|range| *range > 0)
        else {
            return Ok(());
        };
        let mut id = match &outer {
            Some(outer) => format!("{outer}/{name}"),
            None => format!("rapl:{name}"),
        };
        if self.channels.iter().any(|channel| channel.id == id) {
            id = format!("{id}:{}", sysfs::name(zone));
        }
        let is_part = matches!(name, "core" | "uncore");
        self.channels.push(MeterChannel {
            name: id.trim_start_matches("rapl:").replace('/', " "),
            id,
            kind,
            source: EnergySource::Rapl,
            resolution: range as f64 / VALUES * 1e-6,
            period: PERIOD,
            parent: outer.filter(|_| is_part),
        });
        let counter = EnergyCounter::new(1e-6, Some(range), most);
        self.zones.push((path, counter));
        Ok(())
    }

    /// The id of the zone that this one is in: `intel-rapl:0` has `intel-rapl:0:1` in it.
    fn outer(&self, zone: &Path) -> Option<String> {
        let name = sysfs::name(zone);
        let (outer, _) = name
            .rsplit_once(':')
            .filter(|(outer, _)| outer.contains(':'))?;
        let mut zones = self.zones.iter().zip(&self.channels);
        zones
            .find(|((path, _), _)| path.parent().is_some_and(|path| sysfs::name(path) == outer))
            .map(|(_, channel)| channel.id.clone())
    }
}

/// What a zone with this name measures, and the most that it may, in watts.
fn kind(name: &str) -> Option<(ComponentKind, f64)> {
    match name {
        "core" => Some((ComponentKind::Cpu, MOST)),
        // On processors that have it: the graphics in them.
        "uncore" => Some((ComponentKind::Gpu, MOST)),
        "dram" => Some((ComponentKind::Memory, MOST)),
        _ if name.starts_with("package-") => Some((ComponentKind::Cpu, MOST)),
        _ if name == "psys" || name.starts_with("psys-") => {
            Some((ComponentKind::Host, MOST_PLATFORM))
        }
        _ => None,
    }
}

impl Meter for Rapl {
    fn channels(&self) -> &[MeterChannel] {
        &self.channels
    }

    fn read(&mut self, now: f64) -> Vec<Option<f64>> {
        let zones = self.zones.iter_mut();
        zones
            .map(|(path, counter)| counter.read(now, sysfs::count(path)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: &str = "262143328850";

    fn machine(zones: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let root = sysfs::tree(&[]);
        for (zone, name, energy) in zones {
            let file = |end: &str| format!("sys/class/powercap/{zone}/{end}");
            sysfs::write(root.path(), &file("name"), name);
            sysfs::write(root.path(), &file("energy_uj"), energy);
            sysfs::write(root.path(), &file("max_energy_range_uj"), RANGE);
        }
        root
    }

    fn channels(found: &DetectedRapl) -> Vec<(&str, ComponentKind, Option<&str>)> {
        let channels = found.meter.iter().flat_map(|meter| &meter.channels);
        channels
            .map(|c| (c.id.as_str(), c.kind, c.parent.as_deref()))
            .collect()
    }

    #[test]
    fn zones_are_parts_of_their_packages_except_memory() {
        let root = machine(&[
            ("intel-rapl", "control type, no zone", "9"),
            ("intel-rapl:0", "package-0", "1"),
            ("intel-rapl:0:0", "core", "1"),
            ("intel-rapl:0:1", "uncore", "0"),
            ("intel-rapl:0:2", "dram", "1"),
            ("intel-rapl:1", "package-1", "1"),
            ("intel-rapl:1:0", "dram", "1"),
            ("intel-rapl:2", "psys", "1"),
            ("intel-rapl-mmio:0", "package-0", "1"),
        ]);
        let found = find(root.path());
        assert_eq!(
            channels(&found),
            [
                ("rapl:package-0", ComponentKind::Cpu, None),
                (
                    "rapl:package-0/core",
                    ComponentKind::Cpu,
                    Some("rapl:package-0")
                ),
                (
                    "rapl:package-0/uncore",
                    ComponentKind::Gpu,
                    Some("rapl:package-0")
                ),
                ("rapl:package-0/dram", ComponentKind::Memory, None),
                ("rapl:package-1", ComponentKind::Cpu, None),
                ("rapl:package-1/dram", ComponentKind::Memory, None),
                ("rapl:psys", ComponentKind::Host, None),
            ]
        );
        let meter = found.meter.unwrap();
        assert_eq!(meter.package().as_deref(), Some("rapl:package-0"));
        assert!((meter.channels()[0].resolution - 61.0e-6).abs() < 1e-6);
        assert_eq!(found.hint, None);
    }

    #[test]
    fn the_other_way_is_taken_where_the_first_is_missing() {
        let root = machine(&[("intel-rapl-mmio:0", "package-0", "1")]);
        assert_eq!(
            channels(&find(root.path())),
            [("rapl:package-0", ComponentKind::Cpu, None)]
        );
    }

    #[test]
    fn a_platform_counter_that_no_board_feeds_is_left_out() {
        let root = machine(&[
            ("intel-rapl:0", "package-0", "0"),
            ("intel-rapl:1", "psys", "0"),
        ]);
        assert_eq!(
            channels(&find(root.path())),
            [("rapl:package-0", ComponentKind::Cpu, None)]
        );
    }

    #[test]
    fn energy_is_counted_over_the_wrap_around() {
        let root = machine(&[("intel-rapl:0", "package-0", "262143000000")]);
        let mut meter = find(root.path()).meter.unwrap();
        assert_eq!(meter.read(0.0), [Some(0.0)]);
        let file = "sys/class/powercap/intel-rapl:0/energy_uj";
        sysfs::write(root.path(), file, "19671150");
        assert_eq!(meter.read(1.0), [Some(20.0)]);
        sysfs::write(root.path(), file, "garbage");
        assert_eq!(meter.read(2.0), [None]);
        std::fs::remove_file(root.path().join(file)).unwrap();
        assert_eq!(meter.read(3.0), [None]);
        sysfs::write(root.path(), file, "59671150");
        assert_eq!(meter.read(4.0), [Some(40.0)]);
    }

    #[test]
    fn counters_for_root_only_give_one_hint() {
        let root = machine(&[
            ("intel-rapl:0", "package-0", "1"),
            ("intel-rapl:0:0", "core", "1"),
        ]);
        let found = find_by(root.path(), |_| Err(io::ErrorKind::PermissionDenied.into()));
        assert!(found.meter.is_none());
        let hint = found.hint.unwrap();
        assert!(hint.contains("chmod") && !hint.contains('\n'));
    }

    #[cfg(unix)]
    #[test]
    fn counters_that_a_container_hides_give_a_hint() {
        let root = machine(&[]);
        let folder = root.path().join("sys/class/powercap");
        std::fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", folder.join("intel-rapl:0")).unwrap();
        let found = find(root.path());
        assert!(found.meter.is_none());
        assert!(found.hint.unwrap().contains("container"));
    }

    #[test]
    fn a_zone_without_a_range_or_a_value_is_left_out() {
        let root = machine(&[
            ("intel-rapl:0", "package-0", "x"),
            ("intel-rapl:1", "package-1", "1"),
        ]);
        sysfs::write(
            root.path(),
            "sys/class/powercap/intel-rapl:1/max_energy_range_uj",
            "0",
        );
        let found = find(root.path());
        assert!(found.meter.is_none() && found.hint.is_none());
    }
}
