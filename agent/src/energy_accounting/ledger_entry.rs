//! A request in the energy_accounting: what it was computed for so far, and at its end what it took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_core::Joules;
use flotilla_core::energy::EnergyUsage;
use flotilla_engine::ComputeLocation;

use super::SharedAccounting;

/// How fast what a token takes follows the answers.
const TOKEN_FOLLOWS: f32 = 0.2;

/// How a model computes, and how fast.
#[derive(Debug)]
pub struct ModelRate {
    pub(super) location: ComputeLocation,
    /// Requests at once that it is at full work with.
    pub(super) concurrency: u32,
    /// Seconds per token written, as `f32`; 0 until an answer has shown it.
    per_token: AtomicU32,
}

impl ModelRate {
    /// That of a model of which no answer is known.
    #[must_use]
    pub fn new(location: ComputeLocation, concurrency: u32) -> Self {
        Self {
            location,
            concurrency: concurrency.max(1),
            per_token: AtomicU32::new(0),
        }
    }

    fn per_token(&self) -> Option<f32> {
        let known = f32::from_bits(self.per_token.load(Ordering::Relaxed));
        (known > 0.0).then_some(known)
    }

    fn learn(&self, decode: Duration, tokens: u32) {
        if tokens < 2 {
            return;
        }
        let seen = decode.as_secs_f32() / (tokens - 1) as f32;
        let known = self.per_token().unwrap_or(seen);
        let learnt = known + TOKEN_FOLLOWS * (seen - known);
        self.per_token.store(learnt.to_bits(), Ordering::Relaxed);
    }
}

/// How far a request is.
#[derive(Debug)]
pub(super) struct RequestProgress {
    pub(super) rate: Arc<ModelRate>,
    began: Instant,
    /// Microseconds to the first token, plus 1; 0 before it.
    first: AtomicU64,
    tokens: AtomicU32,
}

impl RequestProgress {
    pub(super) fn new(rate: Arc<ModelRate>) -> Self {
        Self {
            rate,
            began: Instant::now(),
            first: AtomicU64::new(0),
            tokens: AtomicU32::new(0),
        }
    }

    /// Seconds that it has been computed for.
    pub(super) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Its work in seconds of computing: reading by time, writing by tokens at what one takes.
    pub(super) fn work(&self) -> f64 {
        let elapsed = self.seconds();
        let Some(prefill) = self.prefill() else {
            return elapsed;
        };
        let prefill = prefill.as_secs_f64();
        // The first token is what reading the prompt yields.
        let more = self.tokens.load(Ordering::Relaxed).saturating_sub(1);
        let writing = match self.rate.per_token() {
            Some(per_token) => f64::from(per_token) * f64::from(more),
            None => (elapsed - prefill).max(0.0),
        };
        prefill + writing
    }

    fn prefill(&self) -> Option<Duration> {
        let first = self.first.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_micros(first))
    }
}

/// A request that is being computed. Dropping it settles its account.
pub struct LedgerEntry {
    inner: Arc<SharedAccounting>,
    account: u64,
    progress: Arc<RequestProgress>,
    settled: bool,
}

impl LedgerEntry {
    pub(super) fn new(
        inner: Arc<SharedAccounting>,
        account: u64,
        progress: Arc<RequestProgress>,
    ) -> Self {
        Self {
            inner,
            account,
            progress,
            settled: false,
        }
    }

    /// A token was written.
    pub fn record_token(&self) {
        let progress = &self.progress;
        if progress.tokens.fetch_add(1, Ordering::Relaxed) == 0 {
            let first = u64::try_from(progress.began.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
            progress.first.store(first + 1, Ordering::Relaxed);
        }
    }

    /// The request is complete, with so many tokens written. Returns what it took.
    pub fn settle(&mut self, tokens: u32) -> EnergyUsage {
        if tokens > 0 {
            self.progress.tokens.store(tokens, Ordering::Relaxed);
        }
        if let Some(prefill) = self.progress.prefill() {
            let decode = self.progress.began.elapsed().saturating_sub(prefill);
            self.progress.rate.learn(decode, tokens);
        }
        self.close()
    }

    fn close(&mut self) -> EnergyUsage {
        self.settled = true;
        // One that computes alone has the node to itself.
        let guess = f64::from(self.inner.power.active().0);
        let guess = guess / f64::from(self.progress.rate.concurrency);
        let mut books = self.inner.lock();
        books.count(self.account);
        books.running.remove(&self.account);
        let joules = books.ledger.settle(self.account, guess);
        EnergyUsage::new(Joules(joules as f32), books.sources)
    }
}

impl Drop for LedgerEntry {
    fn drop(&mut self) {
        if !self.settled {
            self.close();
        }
    }
}
