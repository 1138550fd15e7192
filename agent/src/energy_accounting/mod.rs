//! Energy accounting: measures or estimates the energy of this machine and divides it among the
//! requests that caused it.
//!
//! A thread (`sampler.rs`) reads the power meters in windows of 100 ms while requests run, and
//! estimates what no meter covers. The [`Ledger`] divides each window among the requests that were
//! computed in it. A request [opens an entry](EnergyAccounting::open_entry) when its computation
//! starts, records its tokens on it, and gets the energy it used when it settles the entry.
//!
//! All agents of one process share one [`EnergyAccounting`], because they share the machine.

mod cpu_estimate;
mod cpu_meter;
mod ledger_entry;
mod ledger_state;
mod meter_reader;
mod model_cpu;
mod reading;
mod request_progress;
mod request_share;
mod sampler;
mod setup;
mod shared;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use flotilla_core::energy::{GpuUse, Ledger, PowerRange};
use flotilla_engine::ComputeLocation;
use parking_lot::{Condvar, Mutex};

use crate::power::{NVML_CHANNEL, Nvidia};
pub use ledger_entry::LedgerEntry;
use ledger_state::LedgerState;
pub use reading::{ComponentReading, NodeReading};
pub use request_progress::ModelRate;
use request_progress::RequestProgress;
use sampler::EnergySampler;
pub use setup::AccountingSetup;
use shared::SharedAccounting;

/// Handle to the energy accounting of the machine. Cheap to clone; the sampling thread ends when
/// the last clone is dropped.
#[derive(Clone)]
pub struct EnergyAccounting {
    thread: Arc<AccountingThread>,
}

impl fmt::Debug for EnergyAccounting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnergyAccounting").finish_non_exhaustive()
    }
}

/// Stops the sampling thread when dropped. Ledger entries hold only the [`SharedAccounting`], so
/// they do not keep the thread alive.
struct AccountingThread(Arc<SharedAccounting>);

impl Drop for AccountingThread {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

/// A model that comes or goes.
pub(crate) struct LoadingGuard(Arc<SharedAccounting>);

impl Drop for LoadingGuard {
    fn drop(&mut self) {
        self.0.lock().end_loading();
    }
}

impl EnergyAccounting {
    /// Detects the meters of the machine and starts the sampling thread.
    #[must_use]
    pub fn start(setup: AccountingSetup) -> Self {
        let power = setup
            .power
            .unwrap_or_else(|| PowerRange::estimate(setup.cores));
        let sampler = EnergySampler::new(&setup, power);
        let ledger = Ledger::new(f64::from(power.idle.0));
        let shared = Arc::new(SharedAccounting {
            state: Mutex::new(LedgerState::new(
                ledger,
                sampler.initial_sources(),
                setup.cores,
            )),
            wake: Condvar::new(),
            reading: ArcSwap::from_pointee(sampler.initial_reading()),
            power,
            gpu_channels: sampler.gpu_channels(),
        });
        let thread_shared = shared.clone();
        let spawned = std::thread::Builder::new()
            .name("energy".into())
            .spawn(move || sampler.run(&thread_shared));
        if let Err(error) = spawned {
            tracing::warn!(%error, "cannot start the thread that reads the power meters: no energy is reported");
        }
        Self {
            thread: Arc::new(AccountingThread(shared)),
        }
    }

    /// Starts the accounting of this machine for `agents` agents of this process.
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

    /// Starts the accounting of a machine that has neither meters nor `/proc`.
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

    /// Returns the latest reading of the node's energy and condition, at most about a second old
    /// while requests run.
    #[must_use]
    pub fn latest_reading(&self) -> Arc<NodeReading> {
        self.thread.0.reading.load_full()
    }

    /// Returns the GPUs that a model computes on whose process sees the GPUs with these UUIDs alone: what their meters
    /// count is its requests'. All of them, if the UUID of its GPU is not known or is not metered.
    #[must_use]
    pub fn gpu_use(&self, uuid: Option<&str>) -> GpuUse {
        let channels = &self.thread.0.gpu_channels;
        let index = uuid.and_then(|uuid| {
            let id = format!("{NVML_CHANNEL}{uuid}");
            channels.iter().position(|channel| *channel == id)
        });
        let index = index.and_then(|index| u32::try_from(index).ok());
        index.map_or(GpuUse::All, GpuUse::One)
    }

    /// Records that a model begins to come or to go, until the guard is dropped: what the machine draws meanwhile says
    /// nothing of its idle power, which is learnt anew from then on.
    pub(crate) fn begin_loading(&self) -> LoadingGuard {
        self.thread.0.lock().begin_loading();
        LoadingGuard(self.thread.0.clone())
    }

    /// Opens the ledger entry of a request whose computation starts now. `rate` belongs to the
    /// model that computes it. A request that waits for another machine takes no share of this one's
    /// energy.
    #[must_use]
    pub fn open_entry(&self, rate: Arc<ModelRate>) -> LedgerEntry {
        let shared = &self.thread.0;
        if rate.location == ComputeLocation::OtherMachine {
            let progress = Arc::new(RequestProgress::new(rate));
            return LedgerEntry::new(shared.clone(), None, progress);
        }
        let (account, progress, is_first) = shared.lock().open(rate);
        if is_first {
            shared.wake.notify_one();
        }
        LedgerEntry::new(shared.clone(), Some(account), progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_another_machine_takes_no_energy() {
        let accounting = EnergyAccounting::without_meters();
        let rate = |location| Arc::new(ModelRate::new(location, 1, None, GpuUse::None));
        let mut waiting = accounting.open_entry(rate(ComputeLocation::OtherMachine));
        assert!(accounting.thread.0.lock().is_idle());
        let mut local = accounting.open_entry(rate(ComputeLocation::OtherProcess));
        assert!(!accounting.thread.0.lock().is_idle());
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(local.settle().joules.0 > 0.0);
        let none = waiting.settle();
        assert_eq!(none.joules.0, 0.0);
        assert_eq!(none.sources, local.settle().sources);
        assert!(accounting.thread.0.lock().is_idle());
    }
}
