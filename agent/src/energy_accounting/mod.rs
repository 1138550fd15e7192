//! What the node's energy goes to: a thread reads the meters, or estimates where there are none, and
//! the [`Ledger`] divides each window among the requests that were computed in it.
//!
//! A request [enters](EnergyAccounting::open_entry) when it is its turn, tells its tokens, and is told at its end
//! what it took. Agents of one process share one: they share its machine.

mod cpu_meter;
mod ledger_entry;
mod reading;
mod sampler;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use flotilla_core::energy::{EnergySources, Ledger, PowerRange};
use flotilla_engine::ComputeLocation;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::power::{Gpus, Nvidia};
pub use ledger_entry::{LedgerEntry, ModelRate};
pub use reading::{ComponentReading, NodeReading};

/// What is to be known of the machine.
pub struct AccountingSetup {
    /// `/`, or a folder that looks like it.
    pub root: PathBuf,
    pub gpus: Arc<dyn Gpus>,
    /// What it draws, if somebody knows.
    pub power: Option<PowerRange>,
    pub cores: u32,
    /// Agents that are to share the energy_accounting, this one included.
    pub agents: u32,
}

/// The energy_accounting of the machine. Cheap to clone; its thread ends with the last clone.
#[derive(Clone)]
pub struct EnergyAccounting {
    owner: Arc<AccountingThread>,
}

impl fmt::Debug for EnergyAccounting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").finish_non_exhaustive()
    }
}

/// Ends the thread with the last who may enter requests.
struct AccountingThread(Arc<SharedAccounting>);

impl Drop for AccountingThread {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

struct SharedAccounting {
    books: Mutex<LedgerState>,
    /// Told when the first request comes.
    wake: Condvar,
    reading: ArcSwap<NodeReading>,
    power: PowerRange,
}

/// What changes with every request.
struct LedgerState {
    ledger: Ledger,
    running: HashMap<u64, RunningRequest>,
    /// What was computed since the last window.
    computed: WindowCompute,
    /// Where the joules of the windows come from.
    sources: EnergySources,
    /// Whether everybody is gone.
    closed: bool,
}

/// A request that is being computed.
struct RunningRequest {
    progress: Arc<ledger_entry::RequestProgress>,
    /// Seconds of work that are in the ledger.
    counted: f64,
    /// Seconds that it has been computed for, as far as that is counted.
    seconds: f64,
}

/// What was computed in a window, beside its work: seconds that all cores would have been busy for.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct WindowCompute {
    /// By all requests.
    all: f64,
    /// By those of engines that only pretend to compute.
    pretended: f64,
    /// Whether any was computed in another process.
    elsewhere: bool,
}

impl EnergyAccounting {
    /// Looks for meters and starts to read them.
    #[must_use]
    pub fn start(setup: AccountingSetup) -> Self {
        let power = setup
            .power
            .unwrap_or_else(|| PowerRange::guess(setup.cores));
        let sampler = sampler::EnergySampler::new(&setup, power);
        let configured = setup.power.is_some() || sampler.estimates();
        let books = LedgerState {
            ledger: Ledger::new(f64::from(power.idle.0), configured),
            running: HashMap::new(),
            computed: WindowCompute::default(),
            sources: sampler.sources(),
            closed: false,
        };
        let inner = Arc::new(SharedAccounting {
            books: Mutex::new(books),
            wake: Condvar::new(),
            reading: ArcSwap::from_pointee(sampler.first_reading()),
            power,
        });
        let of_thread = inner.clone();
        let spawned = std::thread::Builder::new()
            .name("power".into())
            .spawn(move || sampler.run(&of_thread));
        if let Err(error) = spawned {
            tracing::warn!(%error, "no thread for the power meters: energy is not told");
        }
        Self {
            owner: Arc::new(AccountingThread(inner)),
        }
    }

    /// Those of this machine, for so many agents of this process.
    #[must_use]
    pub fn start_on_this_machine(power: Option<PowerRange>, agents: u32) -> Self {
        Self::start(AccountingSetup {
            root: "/".into(),
            gpus: Arc::new(Nvidia::load()),
            power,
            cores: crate::inventory::cores(),
            agents,
        })
    }

    /// Those of a machine that tells nothing.
    #[cfg(test)]
    pub(crate) fn without_meters() -> Self {
        Self::start(AccountingSetup {
            root: "/nowhere".into(),
            gpus: Arc::new(Nvidia::load()),
            power: None,
            cores: 1,
            agents: 1,
        })
    }

    /// What the node draws and drew, and how it is.
    #[must_use]
    pub fn reading(&self) -> Arc<NodeReading> {
        self.owner.0.reading.load_full()
    }

    /// A request is computed from now on, by a model of this rate.
    #[must_use]
    pub fn open_entry(&self, rate: Arc<ModelRate>) -> LedgerEntry {
        let progress = Arc::new(ledger_entry::RequestProgress::new(rate));
        let inner = &self.owner.0;
        let mut books = inner.lock();
        let account = books.ledger.open();
        let first = books.running.is_empty();
        books.running.insert(
            account,
            RunningRequest {
                progress: progress.clone(),
                counted: 0.0,
                seconds: 0.0,
            },
        );
        drop(books);
        if first {
            inner.wake.notify_one();
        }
        LedgerEntry::new(inner.clone(), account, progress)
    }
}

impl SharedAccounting {
    fn lock(&self) -> MutexGuard<'_, LedgerState> {
        self.books.lock()
    }
}

impl LedgerState {
    /// Puts what a request was computed for since it was last counted into the ledger.
    fn count(&mut self, account: u64) {
        if let Some(running) = self.running.get_mut(&account) {
            count(&mut self.ledger, &mut self.computed, account, running);
        }
    }

    /// The same for all.
    fn count_all(&mut self) {
        for (account, running) in &mut self.running {
            count(&mut self.ledger, &mut self.computed, *account, running);
        }
    }
}

fn count(
    ledger: &mut Ledger,
    computed: &mut WindowCompute,
    account: u64,
    running: &mut RunningRequest,
) {
    let progress = &running.progress;
    let (work, seconds) = (progress.work(), progress.seconds());
    ledger.work(account, work - running.counted);
    running.counted = running.counted.max(work);
    let busy = (seconds - running.seconds) / f64::from(progress.rate.concurrency);
    running.seconds = seconds;
    computed.all += busy;
    match progress.rate.location {
        ComputeLocation::InProcess => {}
        ComputeLocation::OtherProcess => computed.elsewhere = true,
        ComputeLocation::Simulated => computed.pretended += busy,
    }
}
