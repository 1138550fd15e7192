//! Reads all meters of the machine and adds up the channels that make up its power draw.

use flotilla_core::energy::{EnergySource, EnergySources, MeteredPart};

use crate::power::{self, ComponentKind, Meter, MeterChannel};

/// The meters of the machine, with the joules that each channel has counted.
pub(super) struct MeterReader {
    meters: Vec<Box<dyn Meter>>,
    channels: Vec<MeterChannel>,
    /// Joules of each channel since the start.
    channel_joules: Vec<f64>,
}

/// What the meters measured between two reads.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct MeterSample {
    /// The selected channels: their numbers, what they measure, and their joules. Those of one without a value come with
    /// a later reading, and count 0 until then.
    pub(super) channels: Vec<(usize, MeteredPart, f64)>,
    /// Sources of the selected channels.
    pub(super) sources: EnergySources,
    /// Whether the processors' energy is included.
    pub(super) covers_cpu: bool,
}

impl MeterReader {
    /// Takes over `meters` and starts counting at zero: their first read is discarded.
    pub(super) fn new(meters: Vec<Box<dyn Meter>>) -> Self {
        let channels: Vec<_> = meters
            .iter()
            .flat_map(|meter| meter.channels().to_vec())
            .collect();
        let mut reader = Self {
            channel_joules: vec![0.0; channels.len()],
            meters,
            channels,
        };
        reader.read(0.0);
        reader.channel_joules.fill(0.0);
        reader
    }

    /// Reads all meters at `now`, in seconds since the start.
    pub(super) fn read(&mut self, now: f64) -> MeterSample {
        let read: Vec<_> = self
            .meters
            .iter_mut()
            .flat_map(|meter| meter.read(now))
            .collect();
        for (total, joules) in self.channel_joules.iter_mut().zip(&read) {
            *total += joules.unwrap_or(0.0);
        }
        let on_battery = power::on_battery(&self.channels, &read);
        let selection = power::select(&self.channels, on_battery);
        let selected = || {
            selection
                .channels
                .iter()
                .map(|index| &self.channels[*index])
        };
        let channels = selection.channels.iter();
        MeterSample {
            channels: channels
                .map(|i| (*i, self.part(*i), read[*i].unwrap_or(0.0)))
                .collect(),
            sources: selected().map(|channel| channel.source).collect(),
            covers_cpu: selection.covers_cpu,
        }
    }

    /// What a channel measures.
    fn part(&self, index: usize) -> MeteredPart {
        match self.channels[index].kind {
            ComponentKind::Cpu | ComponentKind::Memory => MeteredPart::Processors,
            ComponentKind::Host | ComponentKind::Battery => MeteredPart::Node,
            ComponentKind::Gpu => {
                let before = self.channels[..index].iter();
                let gpus = before.filter(|channel| channel.kind == ComponentKind::Gpu);
                MeteredPart::Gpu(u32::try_from(gpus.count()).unwrap_or(u32::MAX))
            }
        }
    }

    /// The ids of the channels that meter GPUs, in the order of [`MeteredPart::Gpu`].
    pub(super) fn gpu_channels(&self) -> Vec<String> {
        let channels = self.channels.iter();
        let gpus = channels.filter(|channel| channel.kind == ComponentKind::Gpu);
        gpus.map(|channel| channel.id.clone()).collect()
    }

    /// All channels, in the order of [`Self::channel_joules`].
    pub(super) fn channels(&self) -> &[MeterChannel] {
        &self.channels
    }

    /// Joules of each channel since the start.
    pub(super) fn channel_joules(&self) -> &[f64] {
        &self.channel_joules
    }

    /// Whether the channels selected on mains power include the processors.
    pub(super) fn covers_cpu(&self) -> bool {
        power::select(&self.channels, false).covers_cpu
    }

    /// Sources of the channels selected on mains power.
    pub(super) fn sources(&self) -> impl Iterator<Item = EnergySource> {
        self.selected_on_mains().map(|channel| channel.source)
    }

    /// The largest step of the channels selected on mains power, in joules; 0 where none is known.
    pub(super) fn resolution(&self) -> f64 {
        self.selected_on_mains()
            .map(|channel| channel.resolution)
            .fold(0.0, f64::max)
    }

    fn selected_on_mains(&self) -> impl Iterator<Item = &MeterChannel> {
        let selection = power::select(&self.channels, false);
        selection
            .channels
            .into_iter()
            .map(|index| &self.channels[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A meter of a processor with the readings that a test names.
    struct Readings([MeterChannel; 1], VecDeque<Option<f64>>);

    impl Meter for Readings {
        fn channels(&self) -> &[MeterChannel] {
            &self.0
        }

        fn read(&mut self, _: f64) -> Vec<Option<f64>> {
            vec![self.1.pop_front().flatten()]
        }
    }

    #[test]
    fn channel_without_a_value_stays_in_the_window_with_no_joules() {
        let channel = MeterChannel {
            id: "rapl:package-0".into(),
            name: "package-0".into(),
            kind: ComponentKind::Cpu,
            source: EnergySource::Rapl,
            resolution: 0.0,
            period: 0.0,
            parent: None,
        };
        let readings = [Some(0.0), None, Some(20.0)].into();
        let mut reader = MeterReader::new(vec![Box::new(Readings([channel], readings))]);
        let joules = [1.0, 2.0].map(|now| reader.read(now).channels);
        let processors = |joules| vec![(0, MeteredPart::Processors, joules)];
        assert_eq!(joules, [processors(0.0), processors(20.0)]);
    }
}
