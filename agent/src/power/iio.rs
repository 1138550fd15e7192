//! INA3221 power monitors as the kernels of older Jetsons expose them (Jetson Linux 32 and before):
//! as iio devices with milliwatts and rail names, where newer kernels use hwmon.

use std::path::Path;

use super::sensor::{Sensor, SensorChannel};
use flotilla_core::energy::EnergySource;

use super::{MeterChannel, rails, sysfs};

/// Watts per count: the files are in milliwatts.
const WATTS_PER_COUNT: f64 = 1e-3;

/// Detects the metered rails below `root`.
pub(super) fn detect(root: &Path) -> Vec<SensorChannel> {
    let drivers = sysfs::entries(&root.join("sys/bus/i2c/drivers"), "ina3221");
    let mut channels: Vec<SensorChannel> = Vec::new();
    for device in drivers.iter().flat_map(|driver| sysfs::entries(driver, "")) {
        for folder in sysfs::entries(&device, "iio:device") {
            for number in 0..3 {
                let rail = detect_rail(&folder, number);
                // Two drivers may expose the same device.
                let is_new = |rail: &SensorChannel| {
                    let mut others = channels.iter();
                    others.all(|other| other.channel.id != rail.channel.id)
                };
                channels.extend(rail.filter(is_new));
            }
        }
    }
    channels
}

/// The rail with this number, if the device measures its power and its name says what it feeds.
fn detect_rail(folder: &Path, number: u32) -> Option<SensorChannel> {
    let label = sysfs::label(&folder.join(format!("rail_name_{number}")))?;
    let power = folder.join(format!("in_power{number}_input"));
    if !power.exists() {
        return None;
    }
    Some(SensorChannel {
        channel: MeterChannel {
            id: format!("hwmon:ina3221x:{label}"),
            kind: rails::component(&label)?,
            name: label,
            source: EnergySource::Hwmon,
            resolution: 0.0,
            period: 0.0,
            parent: None,
        },
        sensor: Sensor::power(power, WATTS_PER_COUNT),
        is_rail: true,
    })
}

#[cfg(test)]
mod tests {
    use super::super::sensor::meter;
    use super::super::{ComponentKind, Meter};
    use super::*;

    #[test]
    fn rails_of_an_older_jetson_are_metered() {
        let nano = "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0";
        let file = |end: &str| format!("{nano}/{end}");
        let files = [
            (file("rail_name_0"), "POM_5V_IN"),
            (file("in_power0_input"), "2000 mw"),
            (file("rail_name_1"), "POM_5V_GPU"),
            (file("in_power1_input"), "40"),
            (file("rail_name_2"), "POM_5V_CPU"),
            (file("warn_current_limit_2"), "32760"),
        ];
        let files = files.each_ref().map(|(path, text)| (path.as_str(), *text));
        let root = sysfs::tree(&files);
        let mut channels = detect(root.path());
        rails::set_parents(&mut channels);
        let mut meter = meter(channels).unwrap();
        let channels = meter.channels();
        assert_eq!(channels.len(), 2);
        assert_eq!(channels[0].kind, ComponentKind::Host);
        assert_eq!(channels[1].parent.as_ref(), Some(&channels[0].id));
        meter.read(0.0);
        assert_eq!(meter.read(10.0), [Some(20.0), Some(0.4)]);
    }
}
