//! The link to a controller: dialled by the agent, kept up for as long as it runs.
//!
//! One link at a time: the addresses are tried in turn, with a growing pause after each
//! round that failed. While there is none, the models stay as they are.

mod backoff;
mod session;

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_core::NodeName;
use flotilla_proto::v1::Inventory;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::home::Home;
use crate::models::{Desired, Statuses};
use crate::serve::Service;
use backoff::Backoff;

/// A link that lasted this long makes the next failure the first one.
const STEADY: Duration = Duration::from_secs(10);

/// Everything a link needs.
pub(crate) struct Link {
    pub(crate) name: NodeName,
    pub(crate) addresses: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) inventory: Inventory,
    pub(crate) home: Home,
    pub(crate) service: Service,
    pub(crate) statuses: Statuses,
    pub(crate) desired: watch::Sender<Vec<Desired>>,
    /// Resolves when no more requests are to be taken; those under way may finish.
    pub(crate) drain: CancellationToken,
    /// Ends everything at once.
    pub(crate) stop: CancellationToken,
}

impl Link {
    /// Keeps a link up until told to drain or stop.
    pub(crate) async fn run(self) {
        let mut backoff = Backoff::default();
        let mut complained = false;
        loop {
            for address in &self.addresses {
                let began = tokio::time::Instant::now();
                let ended = tokio::select! {
                    () = self.stop.cancelled() => return,
                    ended = session::run(&self, address) => ended,
                };
                if self.drain.is_cancelled() {
                    return;
                }
                let Err(error) = ended else {
                    continue;
                };
                // Said once, not at every try.
                if complained && began.elapsed() < STEADY {
                    tracing::debug!(controller = address, %error, "no link");
                } else {
                    tracing::warn!(controller = address, %error, "no link; trying on");
                }
                complained = true;
                if began.elapsed() >= STEADY {
                    backoff = Backoff::default();
                    complained = false;
                }
            }
            let pause = backoff.next(fastrand::f64());
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.drain.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
