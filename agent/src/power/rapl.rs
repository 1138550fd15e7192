//! RAPL, the energy counters of Intel and AMD processors, as Linux exposes them in powercap.
//!
//! Zones: `package-N` (a socket or die) includes `core` and `uncore` but not `dram`; `psys` covers the
//! whole platform. `intel-rapl-mmio` has the same packages over another interface and is read only if
//! `intel-rapl` is missing. The files are read directly: no maintained crate reads powercap zones with
//! their permission errors, which the hints below depend on.

use std::io;
use std::path::{Path, PathBuf};

use super::energy_counter::EnergyCounter;
use flotilla_core::energy::EnergySource;

use super::{ComponentKind, Meter, MeterChannel, sysfs};

/// Seconds between two updates of the counters (Intel's Software Developer's Manual,
/// volume 3, "RAPL Interfaces").
const PERIOD: f64 = 0.001;

/// Counts in the range of a counter: the registers have 32 bits, and `max_energy_range_uj` is their
/// full range (linux/drivers/powercap/intel_rapl_common.c).
const COUNTS_IN_RANGE: f64 = 4_294_967_296.0;

/// Highest plausible draw of a package or its memory, in watts: four times that of the largest in
/// 2025 (500 W).
const MAX_WATTS: f64 = 2000.0;

/// Highest plausible draw of a platform with `psys`, in watts.
const MAX_PLATFORM_WATTS: f64 = 10_000.0;

/// Hint for counters that only root may read.
const FORBIDDEN: &str = "only root can read the RAPL energy counters (CVE-2020-8694): run `sudo chmod a+r /sys/class/powercap/intel-rapl*:*/energy_uj` after each boot, or give the agent CAP_DAC_READ_SEARCH";

/// Hint for counters that a container hides.
const HIDDEN: &str = "the RAPL energy counters are hidden in this container: mount /sys/devices/virtual/powercap into it read-only";

/// The result of looking for RAPL zones.
pub(super) struct DetectedRapl {
    /// The meter, if at least one zone can be read.
    pub(super) meter: Option<Rapl>,
    /// What a user can do about zones that cannot be read.
    pub(super) hint: Option<String>,
}

/// Detects the zones below `root`.
pub(super) fn detect(root: &Path) -> DetectedRapl {
    detect_with(root, sysfs::number)
}

/// Detects the zones below `root`, reading their counters with `read`.
fn detect_with(root: &Path, read: impl Fn(&Path) -> io::Result<i64>) -> DetectedRapl {
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
                // Zones are symbolic links, whose targets may be hidden in a container.
                Err(error) if error.kind() == io::ErrorKind::NotFound && zone.is_symlink() => {
                    hint = Some(HIDDEN.to_owned());
                }
                Err(error) => {
                    tracing::debug!(%error, zone = %zone.display(), "cannot read the name of a RAPL zone")
                }
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

/// Meter of all RAPL zones of a machine.
#[derive(Default)]
pub(super) struct Rapl {
    channels: Vec<MeterChannel>,
    /// Counter file and counter of each zone, in the order of the channels.
    zones: Vec<(PathBuf, EnergyCounter)>,
}

impl Rapl {
    /// The id of the first package's channel.
    pub(super) fn package(&self) -> Option<String> {
        let mut channels = self.channels.iter();
        channels
            .find(|channel| channel.kind == ComponentKind::Cpu && channel.parent.is_none())
            .map(|channel| channel.id.clone())
    }

    /// Adds a zone. Zones of unknown kind, without a range, or with an unused platform counter are
    /// ignored. Fails if the counter cannot be read.
    fn add(
        &mut self,
        zone: &Path,
        name: &str,
        read: impl Fn(&Path) -> io::Result<i64>,
    ) -> Result<(), io::ErrorKind> {
        let parent = self.parent(zone);
        let Some((kind, max_watts)) = classify(name) else {
            return Ok(());
        };
        let path = zone.join("energy_uj");
        let value = read(&path).map_err(|error| error.kind())?;
        // Many processors have a platform counter that their board does not use: it stays at zero.
        if kind == ComponentKind::Host && value == 0 {
            return Ok(());
        }
        let Some(range) =
            sysfs::count(&zone.join("max_energy_range_uj")).filter(|range| *range > 0)
        else {
            return Ok(());
        };
        let mut id = match &parent {
            Some(parent) => format!("{parent}/{name}"),
            None => format!("rapl:{name}"),
        };
        if self.channels.iter().any(|channel| channel.id == id) {
            id = format!("{id}:{}", sysfs::name(zone));
        }
        let is_in_parent = matches!(name, "core" | "uncore");
        self.channels.push(MeterChannel {
            name: id.trim_start_matches("rapl:").replace('/', " "),
            id,
            kind,
            source: EnergySource::Rapl,
            resolution: range as f64 / COUNTS_IN_RANGE * 1e-6,
            period: PERIOD,
            parent: parent.filter(|_| is_in_parent),
        });
        let counter = EnergyCounter::new(1e-6, Some(range), max_watts);
        self.zones.push((path, counter));
        Ok(())
    }

    /// The id of the zone that contains this one: `intel-rapl:0` contains `intel-rapl:0:1`.
    fn parent(&self, zone: &Path) -> Option<String> {
        let name = sysfs::name(zone);
        let (parent, _) = name
            .rsplit_once(':')
            .filter(|(parent, _)| parent.contains(':'))?;
        let mut zones = self.zones.iter().zip(&self.channels);
        zones
            .find(|((path, _), _)| {
                path.parent()
                    .is_some_and(|path| sysfs::name(path) == parent)
            })
            .map(|(_, channel)| channel.id.clone())
    }
}

/// Returns the component that a zone with this name measures and its highest plausible power in
/// watts. `None` for zones that are not metered.
fn classify(name: &str) -> Option<(ComponentKind, f64)> {
    match name {
        "core" => Some((ComponentKind::Cpu, MAX_WATTS)),
        // The integrated graphics, on processors that have them.
        "uncore" => Some((ComponentKind::Gpu, MAX_WATTS)),
        "dram" => Some((ComponentKind::Memory, MAX_WATTS)),
        _ if name.starts_with("package-") => Some((ComponentKind::Cpu, MAX_WATTS)),
        _ if name == "psys" || name.starts_with("psys-") => {
            Some((ComponentKind::Host, MAX_PLATFORM_WATTS))
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

    fn channels(detected: &DetectedRapl) -> Vec<(&str, ComponentKind, Option<&str>)> {
        let channels = detected.meter.iter().flat_map(|meter| &meter.channels);
        channels
            .map(|c| (c.id.as_str(), c.kind, c.parent.as_deref()))
            .collect()
    }

    #[test]
    fn package_zones_contain_all_but_memory() {
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
        let detected = detect(root.path());
        assert_eq!(
            channels(&detected),
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
        let meter = detected.meter.unwrap();
        assert_eq!(meter.package().as_deref(), Some("rapl:package-0"));
        assert!((meter.channels()[0].resolution - 61.0e-6).abs() < 1e-6);
        assert_eq!(detected.hint, None);
    }

    #[test]
    fn mmio_zones_are_read_when_the_others_are_missing() {
        let root = machine(&[("intel-rapl-mmio:0", "package-0", "1")]);
        assert_eq!(
            channels(&detect(root.path())),
            [("rapl:package-0", ComponentKind::Cpu, None)]
        );
    }

    #[test]
    fn an_unused_platform_counter_is_ignored() {
        let root = machine(&[
            ("intel-rapl:0", "package-0", "0"),
            ("intel-rapl:1", "psys", "0"),
        ]);
        assert_eq!(
            channels(&detect(root.path())),
            [("rapl:package-0", ComponentKind::Cpu, None)]
        );
    }

    #[test]
    fn energy_is_counted_across_the_wrap_around() {
        let root = machine(&[("intel-rapl:0", "package-0", "262143000000")]);
        let mut meter = detect(root.path()).meter.unwrap();
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
    fn counters_that_only_root_may_read_give_one_hint() {
        let root = machine(&[
            ("intel-rapl:0", "package-0", "1"),
            ("intel-rapl:0:0", "core", "1"),
        ]);
        let detected = detect_with(root.path(), |_| Err(io::ErrorKind::PermissionDenied.into()));
        assert!(detected.meter.is_none());
        let hint = detected.hint.unwrap();
        assert!(hint.contains("chmod") && !hint.contains('\n'));
    }

    #[cfg(unix)]
    #[test]
    fn counters_that_a_container_hides_give_a_hint() {
        let root = machine(&[]);
        let folder = root.path().join("sys/class/powercap");
        std::fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink("/nowhere/at/all", folder.join("intel-rapl:0")).unwrap();
        let detected = detect(root.path());
        assert!(detected.meter.is_none());
        assert!(detected.hint.unwrap().contains("container"));
    }

    #[test]
    fn a_zone_without_a_range_or_a_value_is_ignored() {
        let root = machine(&[
            ("intel-rapl:0", "package-0", "x"),
            ("intel-rapl:1", "package-1", "1"),
        ]);
        sysfs::write(
            root.path(),
            "sys/class/powercap/intel-rapl:1/max_energy_range_uj",
            "0",
        );
        let detected = detect(root.path());
        assert!(detected.meter.is_none() && detected.hint.is_none());
    }
}
