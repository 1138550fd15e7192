//! What the node draws and drew, and how it is.

use flotilla_core::energy::EnergySources;
use flotilla_proto::v1;

use crate::power::{MeterChannel, NodeCondition};

/// What the node draws and drew, and how it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeReading {
    /// Drawn now.
    pub watts: f64,
    /// Drawn without requests, as far as is known.
    pub idle_watts: f64,
    /// Joules since the start.
    pub joules: f64,
    /// Of those, what went to requests.
    pub attributed: f64,
    /// What went to none. It never falls, though an answer that was told too much is made up for later.
    pub idle: f64,
    /// The joules again, by where they come from: a node may go from its meters to its battery.
    pub by_sources: Vec<(EnergySources, f64)>,
    pub sources: EnergySources,
    /// The smallest step that can be told, in joules; 0 where that is not known.
    pub resolution: f64,
    /// Why nothing better is measured, and what to do; empty where there is nothing to say.
    pub hint: String,
    pub condition: NodeCondition,
    /// What is metered, part by part.
    pub parts: Vec<ComponentReading>,
}

/// A part of the node.
#[derive(Debug, Clone, PartialEq)]
pub struct ComponentReading {
    pub channel: MeterChannel,
    pub joules: f64,
    pub watts: f64,
}

impl NodeReading {
    /// An even share of it, for one of so many agents.
    pub(super) fn shared(self, agents: u32) -> Self {
        let part = f64::from(agents.max(1));
        let shared = |part_of: ComponentReading| ComponentReading {
            joules: part_of.joules / part,
            watts: part_of.watts / part,
            ..part_of
        };
        Self {
            watts: self.watts / part,
            idle_watts: self.idle_watts / part,
            joules: self.joules / part,
            attributed: self.attributed / part,
            idle: self.idle / part,
            by_sources: self
                .by_sources
                .into_iter()
                .map(|(sources, joules)| (sources, joules / part))
                .collect(),
            parts: self.parts.into_iter().map(shared).collect(),
            ..self
        }
    }

    /// As it is told to controllers.
    #[must_use]
    pub(crate) fn message(&self) -> v1::NodeEnergy {
        let battery = self.condition.battery.map(|battery| v1::Battery {
            charge: battery.charge,
            discharging: battery.discharging,
        });
        v1::NodeEnergy {
            watts: self.watts as f32,
            idle_watts: self.idle_watts as f32,
            joules: self.joules,
            attributed_joules: self.attributed,
            sources: self.sources.bits(),
            resolution_joules: self.resolution,
            hint: self.hint.clone(),
            battery,
            throttled: self.condition.throttled.clone().unwrap_or_default(),
        }
    }
}
