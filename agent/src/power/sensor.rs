//! One sensor in `/sys`: the files it is read from, and what it has counted.

use std::path::{Path, PathBuf};

use super::counter::EnergyCounter;
use super::integral::PowerIntegral;
use super::{Meter, MeterChannel, sysfs};

/// No sensor of a node sees more than this, in watts: a rack's power shelf is about as large.
const MOST: f64 = 20_000.0;

/// Joules, watts, volts times amperes of one count of hwmon's files, which are in microjoules,
/// microwatts, and millivolts and milliamperes (kernel.org, "Naming and data format standards for sysfs
/// files").
const MICRO: f64 = 1e-6;

/// A sensor with what it has counted so far.
pub(super) struct Sensor {
    input: SensorInput,
    gauge: SensorGauge,
}

/// Where a sensor is read.
enum SensorInput {
    /// A file with a number.
    File(PathBuf),
    /// A file with millivolts and one with milliamperes.
    Product(PathBuf, PathBuf),
}

/// What makes joules of it.
enum SensorGauge {
    Energy(EnergyCounter),
    /// Watts of one count, and their integral.
    Power(f64, PowerIntegral),
}

impl Sensor {
    /// A counter of microjoules.
    pub(super) fn energy(path: PathBuf) -> Self {
        Self {
            input: SensorInput::File(path),
            gauge: SensorGauge::Energy(EnergyCounter::new(MICRO, None, MOST)),
        }
    }

    /// A power sensor whose file counts in so many watts.
    pub(super) fn power(path: PathBuf, watts: f64) -> Self {
        Self {
            input: SensorInput::File(path),
            gauge: SensorGauge::Power(watts, PowerIntegral::new(MOST)),
        }
    }

    /// A sensor of a rail's voltage and current.
    pub(super) fn product(volts: PathBuf, amperes: PathBuf) -> Self {
        Self {
            input: SensorInput::Product(volts, amperes),
            gauge: SensorGauge::Power(MICRO, PowerIntegral::new(MOST)),
        }
    }

    /// The sensor with this number among hwmon's files: what counts energy before what tells power, and
    /// a mean before a moment. One that can be read now before one that only has its file: a GPU that
    /// sleeps cannot be read, and some drivers have files that never answer.
    pub(super) fn of_hwmon(folder: &Path, number: u32) -> Option<Self> {
        let file = |name: &str| folder.join(name);
        let volts = file(&format!("in{number}_input"));
        let amperes = file(&format!("curr{number}_input"));
        let mut sensors = vec![
            Self::energy(file(&format!("energy{number}_input"))),
            Self::power(file(&format!("power{number}_average")), MICRO),
            Self::power(file(&format!("power{number}_input")), MICRO),
            Self::product(volts, amperes),
        ];
        let at = sensors
            .iter()
            .position(|sensor| sensor.look().is_some())
            .or_else(|| sensors.iter().position(Self::exists))?;
        Some(sensors.swap_remove(at))
    }

    /// The smallest step in joules, as [`MeterChannel::resolution`] has it.
    pub(super) fn resolution(&self) -> f64 {
        match self.gauge {
            SensorGauge::Energy(_) => MICRO,
            SensorGauge::Power(..) => 0.0,
        }
    }

    /// Joules since the read before.
    pub(super) fn read(&mut self, now: f64) -> Option<f64> {
        let value = self.look();
        match &mut self.gauge {
            SensorGauge::Energy(counter) => counter.read(now, value),
            SensorGauge::Power(unit, integral) => {
                integral.read(now, value.map(|value| value as f64 * *unit))
            }
        }
    }

    /// The number that it gives now. A rail that feeds back, or an offset about zero, is no draw.
    fn look(&self) -> Option<u64> {
        let number = match &self.input {
            SensorInput::File(path) => sysfs::signed(path)?,
            SensorInput::Product(volts, amperes) => {
                sysfs::signed(volts)?.checked_mul(sysfs::signed(amperes)?)?
            }
        };
        Some(number.max(0).unsigned_abs())
    }

    fn exists(&self) -> bool {
        match &self.input {
            SensorInput::File(path) => path.exists(),
            SensorInput::Product(volts, amperes) => volts.exists() && amperes.exists(),
        }
    }
}

/// A channel with its sensor.
pub(super) struct SensorChannel {
    pub(super) channel: MeterChannel,
    pub(super) sensor: Sensor,
    /// Whether it is one of a board's rails, which belong together.
    pub(super) rail: bool,
}

/// The sensors of a node as one meter, where there are any.
pub(super) fn meter(parts: Vec<SensorChannel>) -> Option<Sensors> {
    if parts.is_empty() {
        return None;
    }
    let (channels, sensors) = parts
        .into_iter()
        .map(|part| (part.channel, part.sensor))
        .unzip();
    Some(Sensors { channels, sensors })
}

/// Sensors that are read one by one.
pub(super) struct Sensors {
    channels: Vec<MeterChannel>,
    sensors: Vec<Sensor>,
}

impl Meter for Sensors {
    fn channels(&self) -> &[MeterChannel] {
        &self.channels
    }

    fn read(&mut self, now: f64) -> Vec<Option<f64>> {
        let sensors = self.sensors.iter_mut();
        sensors.map(|sensor| sensor.read(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn energy_is_preferred_to_power_and_a_mean_to_a_moment() {
        let root = sysfs::tree(&[("power1_input", "3000000"), ("power1_cap", "9")]);
        let read = |root: &Path| {
            let mut sensor = Sensor::of_hwmon(root, 1).unwrap();
            sensor.read(0.0);
            sysfs::write(root, "energy1_input", "15000000");
            (sensor.read(1.0), sensor.resolution())
        };
        assert_eq!(read(root.path()), (Some(3.0), 0.0));
        sysfs::write(root.path(), "energy1_input", "14000000");
        assert_eq!(read(root.path()), (Some(1.0), 1e-6));
        let root = sysfs::tree(&[("power1_input", "3000000"), ("power1_average", "2000000")]);
        assert_eq!(read(root.path()), (Some(2.0), 0.0));
        assert!(Sensor::of_hwmon(root.path(), 2).is_none());
    }

    #[test]
    fn a_file_that_never_answers_is_passed_over_for_one_that_does() {
        let root = sysfs::tree(&[("power1_average", ""), ("power1_input", "3000000")]);
        let mut sensor = Sensor::of_hwmon(root.path(), 1).unwrap();
        sensor.read(0.0);
        assert_eq!(sensor.read(1.0), Some(3.0));
    }

    #[test]
    fn a_sleeping_sensor_wakes_up_later() {
        let root = sysfs::tree(&[("power1_average", "")]);
        let mut sensor = Sensor::of_hwmon(root.path(), 1).unwrap();
        assert_eq!(sensor.read(0.0), None);
        sysfs::write(root.path(), "power1_average", "5000000");
        assert_eq!(sensor.read(1.0), Some(0.0));
        assert_eq!(sensor.read(2.0), Some(5.0));
    }

    #[test]
    fn a_huge_or_negative_product_is_no_energy() {
        let root = sysfs::tree(&[("in1_input", "5000"), ("curr1_input", "-20")]);
        let mut sensor = Sensor::of_hwmon(root.path(), 1).unwrap();
        assert_eq!(sensor.read(0.0), Some(0.0));
        assert_eq!(sensor.read(1.0), Some(0.0));
        sysfs::write(root.path(), "curr1_input", &i64::MAX.to_string());
        assert_eq!(sensor.read(2.0), None);
        sysfs::write(root.path(), "curr1_input", "9000000000");
        assert_eq!(sensor.read(3.0), None);
    }
}
