//! The links to all controllers: opened by the agent and kept up while it runs.
//!
//! The agent starts with the configured addresses; every controller it reaches names the others. Each
//! link is a task of its own. All controllers read the node's desired state from one store, so the
//! newest one counts, whichever controller sends it. While no link is up, the models stay as they are.

mod agent_link;
mod desired_state;
mod energy_report;
mod linked_controllers;
mod reconnect_delays;
mod session;
mod status_reporter;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

pub(crate) use agent_link::AgentLink;
pub(crate) use desired_state::DesiredStateReceiver;
pub(crate) use linked_controllers::LinkedControllers;
use reconnect_delays::ReconnectDelays;
use session::SessionError;

/// After a session of this length, the delays between attempts start over.
const STABLE_SESSION: Duration = Duration::from_secs(10);

/// Keeps up links to the controllers at the configured `addresses` and to those they name, until the
/// agent has drained or stops.
pub(crate) async fn run(
    link: AgentLink,
    controllers: Arc<LinkedControllers>,
    addresses: Vec<String>,
) {
    let link = Arc::new(link);
    let configured: BTreeSet<String> = addresses.into_iter().collect();
    let mut addresses = controllers.addresses();
    let mut links: JoinSet<()> = JoinSet::new();
    let mut running: HashMap<String, AbortHandle> = HashMap::new();
    loop {
        let current: BTreeSet<String> = configured
            .union(&addresses.borrow_and_update())
            .cloned()
            .collect();
        running.retain(|address, task| {
            let keep = current.contains(address);
            if !keep {
                tracing::info!(controller = address, "the controller has left the fleet");
                task.abort();
            }
            keep
        });
        for address in current {
            running.entry(address.clone()).or_insert_with(|| {
                let (link, controllers) = (link.clone(), controllers.clone());
                links.spawn(async move { keep_linked(&link, &controllers, &address).await })
            });
        }
        tokio::select! {
            ended = links.join_next() => match ended {
                // The task was aborted above.
                Some(_) if !link.drain.is_cancelled() && !link.stop.is_cancelled() => {}
                // Draining: the other links still finish their requests.
                Some(_) if !links.is_empty() => {}
                _ => return,
            },
            changed = addresses.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Keeps up the link to one address.
async fn keep_linked(link: &AgentLink, controllers: &LinkedControllers, address: &str) {
    let mut delays = ReconnectDelays::default();
    let mut has_warned = false;
    loop {
        let started = Instant::now();
        let ended = tokio::select! {
            () = link.stop.cancelled() => return,
            ended = session::run(link, controllers, address) => ended,
        };
        if link.drain.is_cancelled() {
            return;
        }
        if started.elapsed() >= STABLE_SESSION {
            delays = ReconnectDelays::default();
            has_warned = false;
        }
        match ended {
            Ok(()) => {}
            // The controller is linked at another of its addresses.
            Err(SessionError::AlreadyLinked) => delays = ReconnectDelays::longest(),
            // One warning is enough until a session has been stable.
            Err(error) if std::mem::replace(&mut has_warned, true) => {
                tracing::debug!(controller = address, %error, "no link to the controller");
            }
            Err(error) => {
                tracing::warn!(controller = address, %error, "no link to the controller; retrying");
            }
        }
        tokio::select! {
            () = link.stop.cancelled() => return,
            () = link.drain.cancelled() => return,
            () = tokio::time::sleep(delays.next_delay()) => {}
        }
    }
}
