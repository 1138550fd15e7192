//! The ledger entry of one request.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::Joules;
use flotilla_core::energy::EnergyUsage;

use super::request_progress::RequestProgress;
use super::shared::SharedAccounting;

/// The ledger entry of a request that is being computed. Dropping it settles it.
pub struct LedgerEntry {
    shared: Arc<SharedAccounting>,
    /// The request's account in the ledger. `None` once it is settled, and for a request that the node
    /// does not compute itself.
    account: Option<u64>,
    progress: Arc<RequestProgress>,
}

impl LedgerEntry {
    pub(super) fn new(
        shared: Arc<SharedAccounting>,
        account: Option<u64>,
        progress: Arc<RequestProgress>,
    ) -> Self {
        Self {
            shared,
            account,
            progress,
        }
    }

    /// Records one output token.
    pub fn record_token(&self) {
        self.progress.record_token();
    }

    /// Records how long the engine has computed the request so far, where it says so.
    pub fn record_computed(&self, time: Duration) {
        self.progress.record_computed(time);
    }

    /// Settles the entry of a request that has ended and returns the energy it used, none if another
    /// machine computed it, or if it was settled before.
    pub fn settle(&mut self) -> EnergyUsage {
        let Some(account) = self.account.take() else {
            return EnergyUsage::new(Joules(0.0), self.shared.lock().sources);
        };
        // A guess until the ledger has seen a window with work.
        let active_watts = f64::from(self.shared.power.dynamic_power().0);
        self.shared.lock().settle(account, active_watts)
    }
}

impl Drop for LedgerEntry {
    fn drop(&mut self) {
        if self.account.is_some() {
            self.settle();
        }
    }
}
