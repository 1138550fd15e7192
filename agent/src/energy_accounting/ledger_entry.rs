//! The ledger entry of one request.

use std::sync::Arc;

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

    /// Settles the entry of a request that has ended and returns the energy it used. `None` if it is
    /// not known, because another machine computed the request.
    /// `output_tokens` is the exact number of tokens; 0 keeps the number of recorded ones.
    pub fn settle(&mut self, output_tokens: u32) -> Option<EnergyUsage> {
        self.progress.finish(output_tokens);
        self.close()
    }

    fn close(&mut self) -> Option<EnergyUsage> {
        let account = self.account.take()?;
        // A guess until the ledger has seen a window with work: at full concurrency the requests of a
        // model draw all of the active power together.
        let active_watts = f64::from(self.shared.power.dynamic_power().0);
        let guessed_watts = active_watts / f64::from(self.progress.rate.concurrency);
        Some(self.shared.lock().settle(account, guessed_watts))
    }
}

impl Drop for LedgerEntry {
    fn drop(&mut self) {
        self.close();
    }
}
