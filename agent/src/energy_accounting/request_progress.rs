//! How far the computation of one request has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_core::energy::{GpuUse, Progress};
use flotilla_engine::ComputeLocation;

/// Weight of the newest token in the moving average of the seconds per token.
const TOKEN_TIME_WEIGHT: f32 = 0.05;

/// The engine that computes a model's requests. Requests of one engine are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum EngineKey {
    /// The process with this id, which computes a model, its adapters, and nothing else.
    Process(u32),
    /// The only model of an engine without a process of its own.
    Model(u64),
}

/// Where a model computes, and how fast it writes tokens.
#[derive(Debug)]
pub struct ModelRate {
    pub(super) location: ComputeLocation,
    /// Number of concurrent requests at which the model uses the whole machine.
    pub(super) concurrency: u32,
    pub(super) engine: EngineKey,
    pub(super) gpus: GpuUse,
    /// Whether the engine says how much it has computed for each request.
    is_reported: AtomicBool,
    /// Seconds between two tokens of a request as the bits of an `f32`; 0 until there were two.
    seconds_per_token: AtomicU32,
}

impl ModelRate {
    /// Creates the rate of a model that has not answered yet. `process` is the id of the process that
    /// computes its requests and nothing else, if there is one, and `gpus` what it computes on.
    #[must_use]
    pub fn new(
        location: ComputeLocation,
        concurrency: u32,
        process: Option<u32>,
        gpus: GpuUse,
    ) -> Self {
        static NEXT_MODEL: AtomicU64 = AtomicU64::new(0);
        let engine = match process {
            Some(process) => EngineKey::Process(process),
            None => EngineKey::Model(NEXT_MODEL.fetch_add(1, Ordering::Relaxed)),
        };
        Self {
            location,
            concurrency: concurrency.max(1),
            engine,
            gpus,
            is_reported: AtomicBool::new(false),
            seconds_per_token: AtomicU32::new(0),
        }
    }

    /// The process that computes the model's requests and nothing else. `None`: there is none.
    pub(super) fn process(&self) -> Option<u32> {
        match self.engine {
            EngineKey::Process(process) => Some(process),
            EngineKey::Model(_) => None,
        }
    }

    /// Learns from the time between two tokens of a request, and returns what a token takes at present.
    fn learn(&self, gap: Duration) -> f32 {
        let before = f32::from_bits(self.seconds_per_token.load(Ordering::Relaxed));
        let gap = gap.as_secs_f32();
        let learnt = match before > 0.0 {
            true => before + TOKEN_TIME_WEIGHT * (gap - before),
            false => gap,
        };
        self.seconds_per_token
            .store(learnt.to_bits(), Ordering::Relaxed);
        learnt
    }
}

/// How far the computation of a request has come.
#[derive(Debug)]
pub(super) struct RequestProgress {
    pub(super) rate: Arc<ModelRate>,
    started: Instant,
    /// Microseconds to the last token, plus 1; 0 before the first token.
    last_token: AtomicU64,
    /// Microseconds that the tokens after the first one took, each what a token took when it was written.
    written: AtomicU64,
    /// Microseconds that the engine has reported.
    reported: AtomicU64,
}

impl RequestProgress {
    pub(super) fn new(rate: Arc<ModelRate>) -> Self {
        Self {
            rate,
            started: Instant::now(),
            last_token: AtomicU64::new(0),
            written: AtomicU64::new(0),
            reported: AtomicU64::new(0),
        }
    }

    /// Seconds since the computation started.
    pub(super) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// How far the computation has come: what the engine reports, or what the tokens show.
    pub(super) fn progress(&self) -> Progress {
        let seconds = |micros: &AtomicU64| {
            let micros = micros.load(Ordering::Relaxed);
            Progress::Seconds(Duration::from_micros(micros).as_secs_f64())
        };
        if self.rate.is_reported.load(Ordering::Relaxed) {
            seconds(&self.reported)
        } else if self.last_token.load(Ordering::Relaxed) == 0 {
            Progress::Reading
        } else {
            seconds(&self.written)
        }
    }

    /// Records one output token.
    pub(super) fn record_token(&self) {
        let now = micros(self.started.elapsed());
        if let Some(last) = self
            .last_token
            .swap(now + 1, Ordering::Relaxed)
            .checked_sub(1)
        {
            let gap = Duration::from_micros(now.saturating_sub(last));
            let time = Duration::from_secs_f32(self.rate.learn(gap));
            self.written.fetch_add(micros(time), Ordering::Relaxed);
        }
    }

    /// Records how long the engine has computed the request so far.
    pub(super) fn record_computed(&self, time: Duration) {
        self.rate.is_reported.store(true, Ordering::Relaxed);
        self.reported.store(micros(time), Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate() -> Arc<ModelRate> {
        let location = ComputeLocation::Own;
        Arc::new(ModelRate::new(location, 1, Some(1), GpuUse::None))
    }

    #[test]
    fn token_time_is_a_moving_average() {
        let rate = rate();
        assert_eq!(rate.learn(Duration::from_secs(1)), 1.0);
        assert!((rate.learn(Duration::from_secs(2)) - 1.05).abs() < 1e-6);
    }

    #[test]
    fn tokens_count_at_what_they_took_when_they_were_written() {
        let progress = RequestProgress::new(rate());
        assert_eq!(progress.progress(), Progress::Reading);
        progress.record_token();
        assert_eq!(progress.progress(), Progress::Seconds(0.0));
        // Two more, for which the model takes a second.
        progress.rate.learn(Duration::from_secs(1));
        progress.record_token();
        let Progress::Seconds(first) = progress.progress() else {
            panic!("it is reading");
        };
        progress.rate.learn(Duration::from_secs(1_000));
        assert_eq!(progress.progress(), Progress::Seconds(first));
    }

    #[test]
    fn what_the_engine_reports_counts_alone() {
        let progress = RequestProgress::new(rate());
        progress.record_computed(Duration::from_millis(1_500));
        progress.record_token();
        assert_eq!(progress.progress(), Progress::Seconds(1.5));
        let other = RequestProgress::new(progress.rate);
        assert_eq!(other.progress(), Progress::Seconds(0.0), "it waits");
    }
}
