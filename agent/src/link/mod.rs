//! The links to all controllers: opened by the agent and kept up while it runs.
//!
//! The agent starts with the configured addresses; every controller it reaches names the others. Each
//! link is a task of its own. All controllers read the node's desired state from one store, so the
//! newest one counts, whichever controller sends it. While no link is up, the models stay as they are.

mod agent_link;
mod connector;
mod desired_state;
mod energy_report;
mod enrolment;
mod linked_controllers;
mod logged_causes;
mod peer_protocol;
mod reconnect_delays;
mod security;
mod session;
mod status_reporter;
mod tls_problem;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::Instrument;

pub(crate) use agent_link::AgentLink;
pub(crate) use connector::{Connector, is_loopback};
pub(crate) use desired_state::DesiredStateReceiver;
pub(crate) use linked_controllers::LinkedControllers;
use logged_causes::LoggedCauses;
use reconnect_delays::ReconnectDelays;
pub(crate) use security::LinkSecurity;
pub use security::SecurityError;
use session::SessionError;

/// After a session of this length, the delays between attempts start over.
const STABLE_SESSION: Duration = Duration::from_secs(10);

/// Most controllers behind one address.
const MAX_LINKS_PER_ADDRESS: usize = 64;

/// The task that keeps up one link to an address.
struct LinkTask {
    task: AbortHandle,
    /// Whether the link is dialled again after it has ended.
    wanted: watch::Sender<bool>,
}

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
    // By the address, and a number: several controllers may be behind one address.
    let mut running: HashMap<(String, usize), LinkTask> = HashMap::new();
    loop {
        let mut counts = addresses.borrow_and_update().clone();
        for address in &configured {
            counts.entry(address.clone()).or_insert(1);
        }
        let current: BTreeSet<(String, usize)> = counts
            .into_iter()
            .flat_map(|(address, controllers)| {
                let numbers = 0..controllers.min(MAX_LINKS_PER_ADDRESS);
                numbers.map(move |number| (address.clone(), number))
            })
            .collect();
        running.retain(|_, link| !link.task.is_finished());
        for (key, task) in &running {
            let wanted = current.contains(key);
            // A link that is up stays until the controller ends it: a controller that stops lets its
            // running answers end first.
            if *task.wanted.borrow() && !wanted {
                tracing::info!(controller = key.0, "the controller leaves the fleet");
            }
            task.wanted.send_replace(wanted);
        }
        // While the agent drains or stops, links that have ended stay so.
        let ending = link.drain.is_cancelled() || link.stop.is_cancelled();
        for key in current.into_iter().filter(|_| !ending) {
            let address = key.0.clone();
            running.entry(key).or_insert_with(|| {
                let (wanted, is_wanted) = watch::channel(true);
                let (link, controllers) = (link.clone(), controllers.clone());
                let keep = async move {
                    keep_linked(&link, &controllers, &address, is_wanted).await;
                };
                let task = links.spawn(keep.in_current_span());
                LinkTask { task, wanted }
            });
        }
        tokio::select! {
            ended = links.join_next() => match ended {
                // The address is no longer wanted.
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

/// Keeps up the link to one address while it is wanted.
async fn keep_linked(
    link: &AgentLink,
    controllers: &LinkedControllers,
    address: &str,
    mut wanted: watch::Receiver<bool>,
) {
    let mut delays = ReconnectDelays::default();
    let mut logged = LoggedCauses::default();
    loop {
        let started = Instant::now();
        let ended = tokio::select! {
            () = link.stop.cancelled() => return,
            ended = session::run(link, controllers, address) => ended,
        };
        if link.drain.is_cancelled() || !*wanted.borrow_and_update() {
            return;
        }
        if started.elapsed() >= STABLE_SESSION {
            delays = ReconnectDelays::default();
            logged.clear();
        }
        match ended {
            Ok(()) => {}
            Err(SessionError::Stopped) => {
                tracing::info!(controller = address, "the controller has stopped");
            }
            // The controller is linked at another of its addresses, or another one behind the same
            // address was not reached this time.
            Err(SessionError::AlreadyLinked) => delays = ReconnectDelays::longest(),
            Err(error) => {
                let needs_operator = error.needs_operator();
                if needs_operator {
                    delays = ReconnectDelays::longest();
                }
                let cause = error.to_string();
                if !logged.is_new(&cause) {
                    tracing::debug!(controller = address, "no link to the controller: {cause}");
                } else if needs_operator {
                    tracing::error!(controller = address, "no link to the controller: {cause}");
                } else {
                    tracing::warn!(
                        controller = address,
                        "no link to the controller, retrying: {cause}"
                    );
                }
            }
        }
        tokio::select! {
            () = link.stop.cancelled() => return,
            () = link.drain.cancelled() => return,
            _ = wanted.wait_for(|wanted| !wanted) => return,
            () = tokio::time::sleep(delays.next_delay()) => {}
        }
    }
}
