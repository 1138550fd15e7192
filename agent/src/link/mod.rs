//! The links to all controllers: dialled by the agent, kept up for as long as it runs.
//!
//! It begins with the addresses it was given; every controller it reaches says where the
//! others are. Each link is a task of its own. What controllers want of the node they all
//! read in one store, so the newest word counts, whoever brings it. While there is no link,
//! the models stay as they are.

mod backoff;
mod desired_state;
mod linked_controllers;
mod session;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use flotilla_core::spec::Taint;
use flotilla_core::{NodeName, ZoneName};
use flotilla_proto::v1::Inventory;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::energy_accounting::EnergyAccounting;
use crate::models::ModelStatuses;
use crate::serve::InferenceService;
use backoff::Backoff;
pub(crate) use desired_state::DesiredStateReceiver;
pub(crate) use linked_controllers::LinkedControllers;
use session::SessionError;

/// A link that lasted this long makes the next failure the first one.
const STEADY: std::time::Duration = std::time::Duration::from_secs(10);

/// Everything a link needs.
pub(crate) struct AgentLink {
    pub(crate) name: NodeName,
    pub(crate) identity: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) zone: Option<ZoneName>,
    pub(crate) inventory: Inventory,
    pub(crate) service: InferenceService,
    pub(crate) statuses: ModelStatuses,
    pub(crate) energy_accounting: EnergyAccounting,
    pub(crate) orders: DesiredStateReceiver,
    /// Resolves when no more requests are to be taken; those under way may finish.
    pub(crate) drain: CancellationToken,
    /// Ends everything at once.
    pub(crate) stop: CancellationToken,
}

/// Keeps links up to the controllers at `seeds` and to those they name, until told to drain or
/// stop.
pub(crate) async fn run(link: AgentLink, peers: Arc<LinkedControllers>, seeds: Vec<String>) {
    let link = Arc::new(link);
    let seeds: BTreeSet<String> = seeds.into_iter().collect();
    let mut named = peers.named();
    let mut links: JoinSet<()> = JoinSet::new();
    let mut running: HashMap<String, AbortHandle> = HashMap::new();
    loop {
        let wanted: BTreeSet<String> = seeds.union(&named.borrow_and_update()).cloned().collect();
        running.retain(|address, task| {
            let stays = wanted.contains(address);
            if !stays {
                tracing::info!(controller = address, "is gone for good");
                task.abort();
            }
            stays
        });
        for address in wanted {
            running.entry(address.clone()).or_insert_with(|| {
                let (link, peers) = (link.clone(), peers.clone());
                links.spawn(async move { keep(&link, &peers, &address).await })
            });
        }
        tokio::select! {
            ended = links.join_next() => match ended {
                // Aborted, or draining.
                Some(_) if !link.drain.is_cancelled() && !link.stop.is_cancelled() => {}
                Some(_) if !links.is_empty() => {}
                _ => return,
            },
            changed = named.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Keeps one link up.
async fn keep(link: &AgentLink, peers: &LinkedControllers, address: &str) {
    let mut backoff = Backoff::default();
    let mut complained = false;
    loop {
        let began = tokio::time::Instant::now();
        let ended = tokio::select! {
            () = link.stop.cancelled() => return,
            ended = session::run(link, peers, address) => ended,
        };
        if link.drain.is_cancelled() {
            return;
        }
        if began.elapsed() >= STEADY {
            backoff = Backoff::default();
            complained = false;
        }
        match ended {
            Ok(()) => {}
            // Linked already, at another of its addresses.
            Err(SessionError::Known) => backoff = Backoff::longest(),
            // Said once, not at every try.
            Err(error) if std::mem::replace(&mut complained, true) => {
                tracing::debug!(controller = address, %error, "no link");
            }
            Err(error) => tracing::warn!(controller = address, %error, "no link; trying on"),
        }
        let pause = backoff.next(fastrand::f64());
        tokio::select! {
            () = link.stop.cancelled() => return,
            () = link.drain.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
