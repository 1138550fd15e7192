//! The thread that samples energy in windows and closes the ledger's windows with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::energy::{
    ChannelWindow, EnergySource, EnergySources, MeterWindow, MeteredPart, PowerRange,
};

use super::cpu_estimate;
use super::cpu_meter::CpuMeter;
use super::ledger_state::WindowCompute;
use super::meter_reader::MeterReader;
use super::reading::{NodeReading, ReadingBuilder};
use super::request_share::request_share;
use super::setup::AccountingSetup;
use super::shared::SharedAccounting;
use crate::power::{self, ConditionWatcher, NodeCondition};

/// Length of a window while requests run: short, so that most of a request falls into windows that
/// are closed when it ends.
const WINDOW: Duration = Duration::from_millis(100);
/// Length of a window while no request runs.
const IDLE_WINDOW: Duration = Duration::from_secs(1);
/// Least number of seconds between two published readings, and so the time that their watts are
/// averaged over.
const READING_INTERVAL: f64 = 1.0;
/// Seconds between two checks of the node's condition.
const CONDITION_INTERVAL: f64 = 5.0;

/// Samples the machine's energy. Times are in seconds since `started`.
pub(super) struct EnergySampler {
    meters: MeterReader,
    cpu_meter: CpuMeter,
    /// Power range of the processors, where no meter covers them.
    estimate: Option<PowerRange>,
    condition_watcher: ConditionWatcher,
    condition: NodeCondition,
    condition_checked: f64,
    hint: String,
    /// Number of agents that share the machine.
    agents: u32,
    started: Instant,
    window_end: f64,
    readings: ReadingBuilder,
}

/// Energy of one window.
struct SampledWindow {
    channels: Vec<ChannelWindow>,
    sources: EnergySources,
}

impl EnergySampler {
    /// Detects the meters of the machine. `power`: the power draw of the whole machine, as
    /// configured or guessed.
    pub(super) fn new(setup: &AccountingSetup, power: PowerRange) -> Self {
        let detected = power::detect(&setup.root, setup.gpus.clone());
        let mut condition_watcher = ConditionWatcher::new(&setup.root, setup.gpus.clone());
        let condition = condition_watcher.check();
        let meters = MeterReader::new(detected.meters);
        let estimate = match (meters.covers_cpu(), meters.sources().next()) {
            (true, _) => None,
            (false, None) => Some(power),
            // The configured power includes the GPU, which is metered: what is left is guessed.
            (false, Some(_)) => Some(PowerRange::estimate(setup.cores)),
        };
        let mut hints = detected.hints;
        if let Some(power) = estimate {
            hints.insert(0, cpu_estimate::describe(power));
        }
        if setup.agents > 1 {
            hints.push(format!(
                "{} nodes share this machine: each reports an even share of its energy",
                setup.agents
            ));
        }
        for hint in &hints {
            tracing::info!("{hint}");
        }
        let mut cpu_meter = CpuMeter::new(&setup.root);
        // The first window starts at this sample.
        cpu_meter.sample(0.0);
        Self {
            meters,
            cpu_meter,
            estimate,
            condition_watcher,
            condition,
            condition_checked: 0.0,
            hint: hints.join("; "),
            agents: setup.agents,
            started: Instant::now(),
            window_end: 0.0,
            readings: ReadingBuilder::default(),
        }
    }

    /// See [`MeterReader::gpu_channels`].
    pub(super) fn gpu_channels(&self) -> Vec<String> {
        self.meters.gpu_channels()
    }

    /// The sources of energy to report before the first window has closed.
    pub(super) fn initial_sources(&self) -> EnergySources {
        let metered: EnergySources = self.meters.sources().collect();
        match self.estimate {
            Some(_) => metered.union(EnergySource::Estimate.into()),
            None => metered,
        }
    }

    /// The reading to publish before any energy has been measured.
    pub(super) fn initial_reading(&self) -> NodeReading {
        let idle_watts = self.estimate.map_or(0.0, |power| f64::from(power.idle.0));
        let reading = NodeReading {
            watts: idle_watts,
            idle_watts,
            sources: self.initial_sources(),
            ..self.describe(NodeReading::default())
        };
        reading.share(self.agents)
    }

    /// Samples until the accounting is closed.
    pub(super) fn run(mut self, shared: &Arc<SharedAccounting>) {
        loop {
            let mut state = shared.lock();
            let was_idle = state.is_idle();
            let length = if was_idle { IDLE_WINDOW } else { WINDOW };
            shared.wake.wait_for(&mut state, length);
            if state.closed {
                return;
            }
            // A request that starts after an idle time ends the idle window: the energy before it
            // is not its own, and it is counted from the next window on. One that has ended already belongs to
            // this window, with the processor time of its model's process.
            let mut starts_with_request = was_idle && !state.has_ended_requests();
            // Short requests one after the other would each end an idle window; windows are not
            // made shorter than half of their length for them.
            if self.now() - self.window_end < WINDOW.as_secs_f64() / 2.0 {
                starts_with_request = false;
                drop(state);
                std::thread::sleep(WINDOW / 2);
                state = shared.lock();
            }
            if !starts_with_request {
                state.count_all();
            }
            let compute = state.take_compute();
            drop(state);
            self.close_window(shared, compute);
        }
    }

    /// Samples the window that ends now, closes it in the ledger and publishes a reading when one
    /// is due.
    fn close_window(&mut self, shared: &SharedAccounting, compute: WindowCompute) {
        let now = self.now();
        let seconds = now - self.window_end;
        self.window_end = now;
        let window = self.sample(now, seconds, compute);
        let joules = window.channels.iter().map(|channel| channel.joules).sum();
        self.readings.add_window(window.sources, joules);
        let mut state = shared.lock();
        state.ledger.close_window(MeterWindow {
            seconds,
            channels: &window.channels,
            is_loading: compute.is_loading,
        });
        state.sources = window.sources;
        let (totals, idle_watts) = (state.ledger.totals(), state.ledger.idle_watts());
        drop(state);
        if now - self.condition_checked >= CONDITION_INTERVAL {
            self.condition_checked = now;
            self.condition = self.condition_watcher.check();
        }
        if self.readings.age(now) < READING_INTERVAL {
            return;
        }
        let (channels, joules) = (self.meters.channels(), self.meters.channel_joules());
        let energy = self.readings.build(now, totals, channels, joules);
        let reading = NodeReading {
            idle_watts,
            sources: window.sources,
            ..self.describe(energy)
        };
        shared.reading.store(Arc::new(reading.share(self.agents)));
    }

    /// Measures and estimates the energy of a window.
    fn sample(&mut self, now: f64, seconds: f64, compute: WindowCompute) -> SampledWindow {
        let metered = self.meters.read(now);
        let cpu = self.cpu_meter.sample(compute.process_seconds);
        let estimates_cpu = self.estimate.is_some();
        let own_share = |part| request_share(part, cpu, compute, estimates_cpu);
        let channels = metered.channels.iter();
        let mut channels: Vec<_> = channels
            .map(|(channel, part, joules)| ChannelWindow {
                channel: *channel,
                part: *part,
                joules: *joules,
                idle_joules: None,
                own_share: own_share(*part),
            })
            .collect();
        let mut sources = metered.sources;
        if let Some(power) = self.estimate.filter(|_| !metered.covers_cpu) {
            let idle = f64::from(power.idle.0) * seconds;
            let active = cpu_estimate::active_joules(power, seconds, cpu, compute);
            channels.push(ChannelWindow {
                channel: self.meters.channels().len(),
                part: MeteredPart::Processors,
                joules: idle + active,
                idle_joules: Some(idle),
                own_share: own_share(MeteredPart::Processors),
            });
            sources = sources.union(EnergySource::Estimate.into());
        }
        SampledWindow { channels, sources }
    }

    /// Adds the description of the meters and the node's condition to a reading.
    fn describe(&self, reading: NodeReading) -> NodeReading {
        NodeReading {
            resolution_joules: self.meters.resolution(),
            hint: self.hint.clone(),
            condition: self.condition.clone(),
            ..reading
        }
    }

    fn now(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}
