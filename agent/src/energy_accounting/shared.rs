//! The state that the handles, the ledger entries and the sampling thread share.

use arc_swap::ArcSwap;
use flotilla_core::energy::PowerRange;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::ledger_state::LedgerState;
use super::reading::NodeReading;

/// State shared by the handles, the ledger entries and the sampling thread.
pub(super) struct SharedAccounting {
    pub(super) state: Mutex<LedgerState>,
    /// Wakes the sampling thread when a first request starts or the accounting closes.
    pub(super) wake: Condvar,
    /// The last reading that was published.
    pub(super) reading: ArcSwap<NodeReading>,
    pub(super) power: PowerRange,
    /// The ids of the channels that meter GPUs, in the order of the GPUs' indices.
    pub(super) gpu_channels: Vec<String>,
}

impl SharedAccounting {
    pub(super) fn lock(&self) -> MutexGuard<'_, LedgerState> {
        self.state.lock()
    }
}
