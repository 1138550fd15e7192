//! The published reading of the node's energy and condition.

use flotilla_core::energy::{EnergySources, LedgerTotals};
use flotilla_proto::v1;

use crate::power::{MeterChannel, NodeCondition};

/// The node's power draw, its energy so far, and its condition. Energy counts from the start of the
/// agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeReading {
    /// Power draw in watts, averaged over about the last second.
    pub watts: f64,
    /// Power draw without requests, in watts; 0 while unknown.
    pub idle_watts: f64,
    /// Energy in joules, all together.
    pub joules: f64,
    /// Joules attributed to requests.
    pub attributed_joules: f64,
    /// Joules attributed to no request. Never falls, although the attribution of a request may be
    /// corrected later.
    pub idle_joules: f64,
    /// Joules by their sources: a node may change from its meters to its battery.
    pub joules_by_source: Vec<(EnergySources, f64)>,
    /// The current sources of the joules.
    pub sources: EnergySources,
    /// The smallest step that the meters can measure, in joules; 0 where unknown.
    pub resolution_joules: f64,
    /// Why a part of the energy is not measured, and what to do about it, for users. Empty if all of it
    /// is measured.
    pub hint: String,
    /// Battery and thermal state.
    pub condition: NodeCondition,
    /// Each metered component.
    pub components: Vec<ComponentReading>,
}

/// The power draw and energy of one component of the node.
#[derive(Debug, Clone, PartialEq)]
pub struct ComponentReading {
    /// The channel that meters the component.
    pub channel: MeterChannel,
    /// Energy in joules since the start of the agent.
    pub joules: f64,
    /// Power draw in watts, averaged over about the last second.
    pub watts: f64,
}

impl NodeReading {
    /// Returns an even share of the energy and power for one of `agents` agents.
    pub(super) fn share(self, agents: u32) -> Self {
        let divisor = f64::from(agents.max(1));
        let share_component = |component: ComponentReading| ComponentReading {
            joules: component.joules / divisor,
            watts: component.watts / divisor,
            ..component
        };
        Self {
            watts: self.watts / divisor,
            idle_watts: self.idle_watts / divisor,
            joules: self.joules / divisor,
            attributed_joules: self.attributed_joules / divisor,
            idle_joules: self.idle_joules / divisor,
            joules_by_source: self
                .joules_by_source
                .into_iter()
                .map(|(sources, joules)| (sources, joules / divisor))
                .collect(),
            components: self.components.into_iter().map(share_component).collect(),
            ..self
        }
    }

    /// Converts the reading to the message sent to controllers.
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
            attributed_joules: self.attributed_joules,
            sources: self.sources.bits(),
            resolution_joules: self.resolution_joules,
            hint: self.hint.clone(),
            battery,
            throttle_reason: self.condition.throttled.clone().unwrap_or_default(),
        }
    }
}

/// Turns the running totals into readings: watts are the joules since the previous reading.
#[derive(Debug, Default)]
pub(super) struct ReadingBuilder {
    /// Joules since the start, by their sources.
    joules_by_source: Vec<(EnergySources, f64)>,
    /// Time of the previous reading, in seconds since the start.
    last_time: f64,
    /// Joules at the previous reading: all, and of each channel.
    last_joules: f64,
    last_channel_joules: Vec<f64>,
    /// The highest idle energy in a reading. The ledger may charge a request too much and make up
    /// for it later; a counter must not go back meanwhile.
    idle_joules: f64,
}

impl ReadingBuilder {
    /// Adds the joules of a window.
    pub(super) fn add_window(&mut self, sources: EnergySources, joules: f64) {
        let mut totals = self.joules_by_source.iter_mut();
        match totals.find(|(other, _)| *other == sources) {
            Some((_, total)) => *total += joules,
            None => self.joules_by_source.push((sources, joules)),
        }
    }

    /// Seconds since the previous reading.
    pub(super) fn age(&self, now: f64) -> f64 {
        now - self.last_time
    }

    /// Builds the energy part of a reading at `now`, in seconds since the start. `channels` and
    /// `channel_joules` belong together. The other fields are left empty.
    pub(super) fn build(
        &mut self,
        now: f64,
        totals: LedgerTotals,
        channels: &[MeterChannel],
        channel_joules: &[f64],
    ) -> NodeReading {
        let seconds = self.age(now);
        self.last_channel_joules.resize(channels.len(), 0.0);
        let channels = channels.iter().zip(channel_joules);
        let components =
            channels
                .zip(&self.last_channel_joules)
                .map(|((channel, joules), before)| ComponentReading {
                    channel: channel.clone(),
                    joules: *joules,
                    watts: (joules - before) / seconds,
                });
        let components = components.collect();
        self.idle_joules = self.idle_joules.max(totals.metered - totals.attributed);
        let reading = NodeReading {
            watts: (totals.metered - self.last_joules) / seconds,
            joules: totals.metered,
            attributed_joules: totals.attributed,
            idle_joules: self.idle_joules,
            joules_by_source: self.joules_by_source.clone(),
            components,
            ..NodeReading::default()
        };
        self.last_time = now;
        self.last_joules = totals.metered;
        self.last_channel_joules = channel_joules.to_vec();
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power::ComponentKind;
    use flotilla_core::energy::EnergySource;

    fn totals(metered: f64, attributed: f64) -> LedgerTotals {
        LedgerTotals {
            metered,
            attributed,
            ..LedgerTotals::default()
        }
    }

    #[test]
    fn watts_are_joules_since_the_previous_reading() {
        let channel = MeterChannel {
            id: "rapl:package-0".into(),
            name: "package-0".into(),
            kind: ComponentKind::Cpu,
            source: EnergySource::Rapl,
            resolution: 0.0,
            period: 0.0,
            parent: None,
        };
        let channels = [channel];
        let mut builder = ReadingBuilder::default();
        builder.build(1.0, totals(100.0, 0.0), &channels, &[80.0]);
        let reading = builder.build(3.0, totals(140.0, 10.0), &channels, &[100.0]);
        assert!((reading.watts - 20.0).abs() < 1e-9);
        assert!((reading.components[0].watts - 10.0).abs() < 1e-9);
        assert!((reading.components[0].joules - 100.0).abs() < 1e-9);
    }

    #[test]
    fn idle_joules_never_fall() {
        let mut builder = ReadingBuilder::default();
        let idle = |builder: &mut ReadingBuilder, now, metered, attributed| {
            let reading = builder.build(now, totals(metered, attributed), &[], &[]);
            reading.idle_joules
        };
        assert!((idle(&mut builder, 1.0, 100.0, 20.0) - 80.0).abs() < 1e-9);
        assert!((idle(&mut builder, 2.0, 110.0, 50.0) - 80.0).abs() < 1e-9);
        assert!((idle(&mut builder, 3.0, 200.0, 50.0) - 150.0).abs() < 1e-9);
    }

    #[test]
    fn joules_are_kept_apart_by_their_sources() {
        let (rapl, battery) = (EnergySource::Rapl.into(), EnergySource::Battery.into());
        let mut builder = ReadingBuilder::default();
        builder.add_window(rapl, 1.0);
        builder.add_window(battery, 2.0);
        builder.add_window(rapl, 4.0);
        let reading = builder.build(1.0, totals(7.0, 0.0), &[], &[]);
        assert_eq!(reading.joules_by_source, [(rapl, 5.0), (battery, 2.0)]);
    }

    #[test]
    fn agents_of_one_machine_report_an_even_share() {
        let reading = NodeReading {
            watts: 30.0,
            joules: 90.0,
            joules_by_source: vec![(EnergySource::Rapl.into(), 90.0)],
            ..NodeReading::default()
        };
        let share = reading.share(3);
        assert!((share.watts - 10.0).abs() < 1e-9);
        assert!((share.joules - 30.0).abs() < 1e-9);
        assert!((share.joules_by_source[0].1 - 30.0).abs() < 1e-9);
    }
}
