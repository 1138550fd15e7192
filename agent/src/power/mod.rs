//! Power meters and the condition of this node: the sensors of Linux and of NVIDIA's driver, one file
//! per source, and the selection of the channels that add up to the node's draw.
//!
//! This module has no clock and no thread: the caller passes the time in. It knows nothing of models,
//! requests or the network. Start reading at [`detect`], then [`select`].

mod battery;
mod channel_selection;
mod condition;
mod energy_counter;
mod hwmon;
mod iio;
mod nvml;
mod power_integral;
mod power_supply;
mod rails;
mod rapl;
mod sensor;
mod sysfs;
mod thermal;

use std::path::Path;
use std::sync::Arc;

use flotilla_core::energy::EnergySource;

pub use channel_selection::{ChannelSelection, on_battery, select};
pub use condition::{BatteryState, ConditionWatcher, NodeCondition};
#[cfg(test)]
pub(crate) use nvml::fake::FakeGpu;
pub use nvml::{Gpu, Gpus, NVML_CHANNEL, Nvidia};

/// The component that a channel measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ComponentKind {
    /// A processor package, or a rail that feeds processor cores or the rest of their chip.
    Cpu,
    /// Memory modules, or a rail that feeds them.
    Memory,
    /// A GPU with its board, a rail that feeds one, or an integrated GPU.
    Gpu,
    /// The whole board or node.
    Host,
    /// The discharge of the batteries.
    Battery,
}

impl ComponentKind {
    /// Returns the value of `hw.type` in OpenTelemetry's hardware conventions. They define none for a
    /// whole host, which is `host` here.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Gpu => "gpu",
            Self::Host => "host",
            Self::Battery => "battery",
        }
    }
}

/// One metered component of the node.
#[derive(Debug, Clone, PartialEq)]
pub struct MeterChannel {
    /// Id, unique on the node: `rapl:package-0`, `nvml:GPU-<uuid>`, `hwmon:ina3221:VDD_IN`.
    pub id: String,
    /// Name for users.
    pub name: String,
    /// The component that it measures.
    pub kind: ComponentKind,
    /// The source of its values.
    pub source: EnergySource,
    /// The smallest step in joules; 0 for an integrated power sensor, whose error depends on time
    /// instead.
    pub resolution: f64,
    /// Seconds between two updates of the sensor; 0 if unknown.
    pub period: f64,
    /// The id of the channel that includes this one's energy, if there is one.
    pub parent: Option<String>,
}

/// A meter of one or more channels.
pub trait Meter: Send {
    /// Returns the channels: always the same ones in the same order.
    fn channels(&self) -> &[MeterChannel];

    /// Returns the joules that each channel has counted since the previous read (0 on the first), in
    /// the order of [`Meter::channels`]. `now` is in seconds on a clock that never goes back.
    ///
    /// `None` for a channel without a value: it could not be read, and its energy comes with the next
    /// read (of a power sensor only within 60 s); or it was reset, and its energy is lost; or it is
    /// the batteries' channel, and the node did not run on battery since the previous read.
    fn read(&mut self, now: f64) -> Vec<Option<f64>>;
}

/// The meters of a machine.
#[derive(Default)]
pub struct DetectedMeters {
    /// The meters; each channel belongs to one of them.
    pub meters: Vec<Box<dyn Meter>>,
    /// One line for users about each source that cannot be read: what is missing and what to do.
    pub hints: Vec<String>,
}

/// Detects the meters of the machine whose `/sys` is below `root`: `/`, except in tests. A source that
/// cannot be read is left out, with a hint; restart the agent after following one.
#[must_use]
pub fn detect(root: &Path, gpus: Arc<dyn Gpus>) -> DetectedMeters {
    let mut detected = DetectedMeters::default();
    let rapl = rapl::detect(root);
    detected.hints.extend(rapl.hint);
    let package = rapl.meter.as_ref().and_then(|meter| meter.package());
    let mut sensors = hwmon::detect(root, package.as_deref());
    sensors.extend(iio::detect(root));
    rails::set_parents(&mut sensors);
    detected.hints.extend(gpus.hint());
    let nvidia = nvml::detect(gpus, rails::gpu_rail(&sensors).as_deref());
    detected.add(rapl.meter);
    detected.add(nvidia);
    detected.add(sensor::meter(sensors));
    detected.add(battery::detect(root));
    detected
}

impl DetectedMeters {
    fn add<M: Meter + 'static>(&mut self, meter: Option<M>) {
        if let Some(meter) = meter {
            self.meters.push(Box::new(meter));
        }
    }
}

#[cfg(test)]
mod tests;
