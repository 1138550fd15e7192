//! A sensor in `/sys`, with the files it is read from and the energy it has measured.

use std::path::{Path, PathBuf};

use super::energy_counter::EnergyCounter;
use super::power_integral::PowerIntegral;
use super::{Meter, MeterChannel, sysfs};

/// Highest plausible power at a sensor, in watts: about that of a rack's power shelf.
const MAX_WATTS: f64 = 20_000.0;

/// Joules per count of an energy file, and watts per count of a power file or of a voltage times a
/// current: hwmon's units are microjoules, microwatts, millivolts and milliamperes (kernel.org, "Naming
/// and data format standards for sysfs files").
const MICRO: f64 = 1e-6;

/// A sensor and how its values become joules.
pub(super) struct Sensor {
    input: SensorInput,
    gauge: SensorGauge,
}

/// The files of a sensor.
enum SensorInput {
    /// One file.
    File(PathBuf),
    /// A file in millivolts and one in milliamperes, whose values are multiplied.
    Product(PathBuf, PathBuf),
}

/// How the values of a sensor become joules.
enum SensorGauge {
    /// The sensor counts energy.
    Energy(EnergyCounter),
    /// The sensor measures power: the watts per count, and their integral.
    Power(f64, PowerIntegral),
}

impl Sensor {
    /// A sensor that counts microjoules.
    pub(super) fn energy(path: PathBuf) -> Self {
        Self {
            input: SensorInput::File(path),
            gauge: SensorGauge::Energy(EnergyCounter::new(MICRO, None, MAX_WATTS)),
        }
    }

    /// A power sensor with a file in units of `watts_per_count`.
    pub(super) fn power(path: PathBuf, watts_per_count: f64) -> Self {
        Self {
            input: SensorInput::File(path),
            gauge: SensorGauge::Power(watts_per_count, PowerIntegral::new(MAX_WATTS)),
        }
    }

    /// A sensor that measures the voltage and the current of a rail.
    pub(super) fn product(millivolts: PathBuf, milliamperes: PathBuf) -> Self {
        Self {
            input: SensorInput::Product(millivolts, milliamperes),
            gauge: SensorGauge::Power(MICRO, PowerIntegral::new(MAX_WATTS)),
        }
    }

    /// Returns the best sensor with this number in a hwmon folder: an energy counter before average
    /// power before momentary power before voltage times current.
    ///
    /// A sensor that can be read now is preferred to one that only has its files: a sleeping GPU
    /// cannot be read, and some drivers have files that never give a value.
    pub(super) fn from_hwmon(folder: &Path, number: u32) -> Option<Self> {
        let file = |name: &str| folder.join(name);
        let volts = file(&format!("in{number}_input"));
        let amperes = file(&format!("curr{number}_input"));
        let mut sensors = vec![
            Self::energy(file(&format!("energy{number}_input"))),
            Self::power(file(&format!("power{number}_average")), MICRO),
            Self::power(file(&format!("power{number}_input")), MICRO),
            Self::product(volts, amperes),
        ];
        let index = sensors
            .iter()
            .position(|sensor| sensor.value().is_some())
            .or_else(|| sensors.iter().position(Self::exists))?;
        Some(sensors.swap_remove(index))
    }

    /// The smallest step in joules; see [`MeterChannel::resolution`].
    pub(super) fn resolution(&self) -> f64 {
        match self.gauge {
            SensorGauge::Energy(_) => MICRO,
            SensorGauge::Power(..) => 0.0,
        }
    }

    /// Returns the joules since the previous read; see [`Meter::read`].
    pub(super) fn read(&mut self, now: f64) -> Option<f64> {
        let value = self.value();
        match &mut self.gauge {
            SensorGauge::Energy(counter) => counter.read(now, value),
            SensorGauge::Power(watts_per_count, integral) => {
                integral.read(now, value.map(|value| value as f64 * *watts_per_count))
            }
        }
    }

    /// The current value in counts. Negative values, from a rail that feeds back or an offset around
    /// zero, count as 0.
    fn value(&self) -> Option<u64> {
        let number = match &self.input {
            SensorInput::File(path) => sysfs::signed(path)?,
            SensorInput::Product(volts, amperes) => {
                sysfs::signed(volts)?.checked_mul(sysfs::signed(amperes)?)?
            }
        };
        Some(number.max(0).unsigned_abs())
    }

    /// Whether the files of the sensor exist.
    fn exists(&self) -> bool {
        match &self.input {
            SensorInput::File(path) => path.exists(),
            SensorInput::Product(volts, amperes) => volts.exists() && amperes.exists(),
        }
    }
}

/// A channel and its sensor.
pub(super) struct SensorChannel {
    pub(super) channel: MeterChannel,
    pub(super) sensor: Sensor,
    /// Whether the channel is a power rail of the board.
    pub(super) is_rail: bool,
}

/// Combines sensors into one meter. `None` without sensors.
pub(super) fn meter(channels: Vec<SensorChannel>) -> Option<Sensors> {
    if channels.is_empty() {
        return None;
    }
    let (channels, sensors) = channels
        .into_iter()
        .map(|channel| (channel.channel, channel.sensor))
        .unzip();
    Some(Sensors { channels, sensors })
}

/// Meter of several sensors.
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
    fn energy_is_preferred_to_power_and_average_power_to_momentary() {
        let root = sysfs::tree(&[("power1_input", "3000000"), ("power1_cap", "9")]);
        let read = |root: &Path| {
            let mut sensor = Sensor::from_hwmon(root, 1).unwrap();
            sensor.read(0.0);
            sysfs::write(root, "energy1_input", "15000000");
            (sensor.read(1.0), sensor.resolution())
        };
        assert_eq!(read(root.path()), (Some(3.0), 0.0));
        sysfs::write(root.path(), "energy1_input", "14000000");
        assert_eq!(read(root.path()), (Some(1.0), 1e-6));
        let root = sysfs::tree(&[("power1_input", "3000000"), ("power1_average", "2000000")]);
        assert_eq!(read(root.path()), (Some(2.0), 0.0));
        assert!(Sensor::from_hwmon(root.path(), 2).is_none());
    }

    #[test]
    fn a_readable_file_is_preferred_to_one_without_a_value() {
        let root = sysfs::tree(&[("power1_average", ""), ("power1_input", "3000000")]);
        let mut sensor = Sensor::from_hwmon(root.path(), 1).unwrap();
        sensor.read(0.0);
        assert_eq!(sensor.read(1.0), Some(3.0));
    }

    #[test]
    fn a_sleeping_sensor_is_measured_once_it_wakes_up() {
        let root = sysfs::tree(&[("power1_average", "")]);
        let mut sensor = Sensor::from_hwmon(root.path(), 1).unwrap();
        assert_eq!(sensor.read(0.0), None);
        sysfs::write(root.path(), "power1_average", "5000000");
        assert_eq!(sensor.read(1.0), Some(0.0));
        assert_eq!(sensor.read(2.0), Some(5.0));
    }

    #[test]
    fn a_huge_or_negative_product_counts_nothing() {
        let root = sysfs::tree(&[("in1_input", "5000"), ("curr1_input", "-20")]);
        let mut sensor = Sensor::from_hwmon(root.path(), 1).unwrap();
        assert_eq!(sensor.read(0.0), Some(0.0));
        assert_eq!(sensor.read(1.0), Some(0.0));
        sysfs::write(root.path(), "curr1_input", &i64::MAX.to_string());
        assert_eq!(sensor.read(2.0), None);
        sysfs::write(root.path(), "curr1_input", "9000000000");
        assert_eq!(sensor.read(3.0), None);
    }
}
