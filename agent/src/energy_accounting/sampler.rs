//! The thread that reads the meters and closes the ledger's windows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_core::energy::{EnergySource, EnergySources, MeterWindow, PowerRange};

use super::cpu_meter::{CpuMeter, CpuSample};
use super::reading::{ComponentReading, NodeReading};
use super::{AccountingSetup, SharedAccounting, WindowCompute};
use crate::power::{self, ComponentKind, ConditionWatcher, Meter, MeterChannel, NodeCondition};

/// How long a window is while requests are computed: most of a request is in closed windows then.
const WINDOW: Duration = Duration::from_millis(100);
/// How long it is while none is.
const QUIET: Duration = Duration::from_secs(1);
/// How often what the node draws is told, and at least how much of it that is the mean of.
const TOLD_EVERY: f64 = 1.0;
/// How often is looked at how the node is.
const CONDITION_EVERY: f64 = 5.0;

/// Reads meters, or estimates.
pub(super) struct EnergySampler {
    meters: Vec<Box<dyn Meter>>,
    channels: Vec<MeterChannel>,
    /// Joules of each channel since the start, and when what is drawn was last told.
    counted: Vec<f64>,
    told: Vec<f64>,
    busy: CpuMeter,
    /// What the processors draw, where nothing meters them.
    estimate: Option<PowerRange>,
    watcher: ConditionWatcher,
    condition: NodeCondition,
    hint: String,
    agents: u32,
    began: Instant,
    /// When the last window closed, what is drawn was told, and the node was looked at, in seconds of
    /// the start.
    last: f64,
    told_at: f64,
    looked_at: f64,
    joules_told: f64,
    /// Joules that went to no request, as told: what an answer was told too much is made up for later,
    /// and a counter must not go back meanwhile.
    idle_told: f64,
    /// Joules since the start, by where they come from.
    by_sources: Vec<(EnergySources, f64)>,
}

/// A window as it was read.
struct SampledWindow {
    joules: f64,
    sources: EnergySources,
    spell: Option<CpuSample>,
    /// Whether a part of it is a GPU's.
    gpu: bool,
}

impl EnergySampler {
    pub(super) fn new(setup: &AccountingSetup, power: PowerRange) -> Self {
        let found = power::find(&setup.root, setup.gpus.clone());
        let channels: Vec<_> = found
            .meters
            .iter()
            .flat_map(|m| m.channels().to_vec())
            .collect();
        let selection = power::select(&channels, false);
        // What somebody said of the node is of all of it; where a GPU is metered the rest is guessed.
        let estimate = match (selection.covers_cpu, selection.picked.is_empty()) {
            (true, _) => None,
            (false, true) => Some(power),
            (false, false) => Some(PowerRange::guess(setup.cores)),
        };
        let mut hints = found.hints;
        if let Some(guess) = estimate {
            hints.insert(0, explain(guess));
        }
        if setup.agents > 1 {
            hints.push(format!(
                "{} nodes share this machine: each is told an even part",
                setup.agents
            ));
        }
        for hint in &hints {
            tracing::info!("{hint}");
        }
        let mut sampler = Self {
            counted: vec![0.0; channels.len()],
            told: vec![0.0; channels.len()],
            meters: found.meters,
            channels,
            busy: CpuMeter::new(&setup.root),
            estimate,
            watcher: ConditionWatcher::find(&setup.root, setup.gpus.clone()),
            condition: NodeCondition::default(),
            hint: hints.join("; "),
            agents: setup.agents,
            began: Instant::now(),
            last: 0.0,
            told_at: 0.0,
            looked_at: 0.0,
            joules_told: 0.0,
            idle_told: 0.0,
            by_sources: Vec::new(),
        };
        sampler.condition = sampler.watcher.look();
        // Counters count from here.
        sampler.read(0.0, 0.0, WindowCompute::default());
        sampler.counted.fill(0.0);
        sampler
    }

    /// Whether the processors' energy is estimated.
    pub(super) fn estimates(&self) -> bool {
        self.estimate.is_some()
    }

    /// Where joules come from, until a window says otherwise.
    pub(super) fn sources(&self) -> EnergySources {
        let picked = power::select(&self.channels, false).picked;
        let metered: EnergySources = picked.iter().map(|at| self.channels[*at].source).collect();
        match self.estimate {
            Some(_) => metered.and(EnergySource::Estimate.into()),
            None => metered,
        }
    }

    /// What is told before anything was drawn.
    pub(super) fn first_reading(&self) -> NodeReading {
        let idle = self.estimate.map_or(0.0, |power| f64::from(power.idle.0));
        NodeReading {
            watts: idle,
            idle_watts: idle,
            sources: self.sources(),
            resolution: self.resolution(),
            hint: self.hint.clone(),
            condition: self.condition.clone(),
            ..NodeReading::default()
        }
        .shared(self.agents)
    }

    /// Reads until everybody is gone.
    pub(super) fn run(mut self, inner: &Arc<SharedAccounting>) {
        loop {
            let mut books = inner.lock();
            let quiet = books.running.is_empty();
            let length = if quiet { QUIET } else { WINDOW };
            inner.wake.wait_for(&mut books, length);
            if books.closed {
                return;
            }
            let now = self.began.elapsed().as_secs_f64();
            // Where short requests come one after the other each would be the first.
            let mut begins = quiet;
            if now - self.last < WINDOW.as_secs_f64() / 2.0 {
                begins = false;
                drop(books);
                std::thread::sleep(WINDOW / 2);
                books = inner.lock();
            }
            // What was drawn before a request came is not its own: it is counted from the next window on.
            if !begins {
                books.count_all();
            }
            let computed = std::mem::take(&mut books.computed);
            drop(books);
            self.close(inner, computed);
        }
    }

    fn close(&mut self, inner: &SharedAccounting, computed: WindowCompute) {
        let now = self.began.elapsed().as_secs_f64();
        let seconds = now - self.last;
        self.last = now;
        let read = self.read(now, seconds, computed);
        let window = MeterWindow {
            seconds,
            joules: read.joules,
            ours: self.ours(&read, computed),
        };
        let known = self.by_sources.iter_mut();
        match known
            .into_iter()
            .find(|(sources, _)| *sources == read.sources)
        {
            Some((_, joules)) => *joules += read.joules,
            None => self.by_sources.push((read.sources, read.joules)),
        }
        let mut books = inner.lock();
        books.ledger.close(window);
        books.sources = read.sources;
        let (totals, idle) = (books.ledger.totals(), books.ledger.idle_watts());
        drop(books);
        if now - self.looked_at >= CONDITION_EVERY {
            self.looked_at = now;
            self.condition = self.watcher.look();
        }
        let since = now - self.told_at;
        if since < TOLD_EVERY {
            return;
        }
        let parts = self.channels.iter().zip(&self.counted).zip(&self.told);
        let parts = parts.map(|((channel, joules), told)| ComponentReading {
            channel: channel.clone(),
            joules: *joules,
            watts: (joules - told) / since,
        });
        self.idle_told = self.idle_told.max(totals.metered - totals.attributed);
        let reading = NodeReading {
            idle: self.idle_told,
            by_sources: self.by_sources.clone(),
            watts: (totals.metered - self.joules_told) / since,
            idle_watts: idle,
            joules: totals.metered,
            attributed: totals.attributed,
            sources: read.sources,
            resolution: self.resolution(),
            hint: self.hint.clone(),
            condition: self.condition.clone(),
            parts: parts.collect(),
        };
        inner.reading.store(Arc::new(reading.shared(self.agents)));
        self.told_at = now;
        self.joules_told = totals.metered;
        self.told.clone_from(&self.counted);
    }

    fn read(&mut self, now: f64, seconds: f64, computed: WindowCompute) -> SampledWindow {
        let told: Vec<_> = self
            .meters
            .iter_mut()
            .flat_map(|meter| meter.read(now))
            .collect();
        for (counted, joules) in self.counted.iter_mut().zip(&told) {
            *counted += joules.unwrap_or(0.0);
        }
        let selection = power::select(&self.channels, power::on_battery(&self.channels, &told));
        let picked = || selection.picked.iter().map(|at| &self.channels[*at]);
        let mut joules: f64 = selection.picked.iter().filter_map(|at| told[*at]).sum();
        let mut sources: EnergySources = picked().map(|channel| channel.source).collect();
        let gpu = picked().any(|channel| channel.kind == ComponentKind::Gpu);
        let spell = self.busy.look();
        if let Some(power) = self.estimate.filter(|_| !selection.covers_cpu) {
            joules += estimate(power, seconds, spell, computed);
            sources = sources.and(EnergySource::Estimate.into());
        }
        SampledWindow {
            joules,
            sources,
            spell,
            gpu,
        }
    }

    /// Which part of what is above idle may be the requests': by processor time, unless what computes
    /// is a GPU or another process, of which no time is known here.
    fn ours(&self, read: &SampledWindow, computed: WindowCompute) -> f64 {
        let Some(spell) = read.spell.filter(|_| !read.gpu && !computed.elsewhere) else {
            return 1.0;
        };
        let pretended = match self.estimate {
            Some(_) => computed.pretended * f64::from(spell.cores),
            None => 0.0,
        };
        let all = spell.machine + pretended;
        if all > 0.0 {
            (spell.own + pretended) / all
        } else {
            1.0
        }
    }

    fn resolution(&self) -> f64 {
        let picked = power::select(&self.channels, false).picked;
        let steps = picked.iter().map(|at| self.channels[*at].resolution);
        steps.fold(0.0, f64::max)
    }
}

/// What processors draw: idle, and for each core that is busy its part of what is drawn on top at full
/// work. Where the machine does not tell how busy it is, it is as busy as the requests make it.
fn estimate(
    power: PowerRange,
    seconds: f64,
    spell: Option<CpuSample>,
    computed: WindowCompute,
) -> f64 {
    let busy = match spell {
        Some(spell) => spell.machine / f64::from(spell.cores) + computed.pretended,
        None => computed.all,
    };
    f64::from(power.idle.0) * seconds + f64::from(power.active().0) * busy.min(seconds)
}

/// What there is to say of an estimate.
fn explain(power: PowerRange) -> String {
    let said = if power.configured {
        "as configured"
    } else {
        "guessed from its cores"
    };
    let advice = if power.configured {
        ""
    } else {
        ": --idle-watts and --max-watts say better"
    };
    format!(
        "no power meter covers the processors: their energy is estimated from processor time, {} W idle to {} W at full work, {said}{advice}",
        power.idle.0, power.max.0
    )
}
