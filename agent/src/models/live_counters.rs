//! What a model has done since the node began to run its revision.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_core::energy::EnergyUsage;
use flotilla_proto::v1::ModelCounters;

/// Counts what a model has done since the node began to run its revision. An instance that is started again
/// goes on counting.
#[derive(Default)]
pub(super) struct LiveCounters {
    requests: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    model_faults: AtomicU64,
    refused: AtomicU64,
    prompt_tokens: AtomicU64,
    output_tokens: AtomicU64,
    wait_us: AtomicU64,
    busy_us: AtomicU64,
    millijoules: AtomicU64,
}

impl LiveCounters {
    /// Counts an admitted request.
    pub(super) fn add_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an admitted request that was dropped before its answer was complete.
    pub(super) fn add_cancelled(&self) {
        self.cancelled.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an admitted request that failed.
    pub(super) fn add_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a failure for which the model is at fault.
    pub(super) fn add_model_fault(&self) {
        self.model_faults.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that found the queue full.
    pub(super) fn add_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds the time that a request waited in the queue.
    pub(super) fn add_wait(&self, time: Duration) {
        self.wait_us.fetch_add(micros(time), Ordering::Relaxed);
    }

    /// Adds the time that a request was computed.
    pub(super) fn add_busy(&self, time: Duration) {
        self.busy_us.fetch_add(micros(time), Ordering::Relaxed);
    }

    /// Adds the energy of a request.
    pub(super) fn add_energy(&self, usage: EnergyUsage) {
        let millijoules = (usage.joules.0 * 1e3) as u64;
        self.millijoules.fetch_add(millijoules, Ordering::Relaxed);
    }

    /// Adds tokens of a request.
    pub(super) fn add_tokens(&self, prompt: u32, output: u32) {
        self.prompt_tokens
            .fetch_add(u64::from(prompt), Ordering::Relaxed);
        self.output_tokens
            .fetch_add(u64::from(output), Ordering::Relaxed);
    }

    /// Returns the counters as a message. `active` and `queued` are requests right now.
    pub(super) fn message(&self, active: u32, queued: u32) -> ModelCounters {
        ModelCounters {
            active,
            queued,
            requests: self.requests.load(Ordering::Relaxed),
            cancelled: self.cancelled.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            model_faults: self.model_faults.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            prompt_tokens: self.prompt_tokens.load(Ordering::Relaxed),
            output_tokens: self.output_tokens.load(Ordering::Relaxed),
            wait_us: self.wait_us.load(Ordering::Relaxed),
            busy_us: self.busy_us.load(Ordering::Relaxed),
            millijoules: self.millijoules.load(Ordering::Relaxed),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
