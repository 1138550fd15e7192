//! What the controller knows of the fleet: the wish from the store, the reality from the
//! links, joined into one immutable [`FleetView`] that readers share without locking.
//!
//! One task owns the state ([`state::FleetState`], plain data); everybody else sends it
//! events through [`FleetHandle`] and reads the view it publishes.

mod failures;
mod files;
mod link;
mod load_guard;
mod node;
pub(crate) mod records;
mod routing;
mod state;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use flotilla_core::NodeName;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::store::{StoreChange, StoreEntry, StoreRevision};
pub use files::ModelManifests;
pub use link::{NodeLink, SessionId};
pub use load_guard::{CandidateSnapshot, LoadGuard, ReplicaStats, pace_clock};
pub use records::{
    AssignmentRecord, ControllerRecord, DesiredRecord, FailedRevisionRecord, FetchRecord,
    NodeOperationRecord, NodeRecord, QualityRecord, StableRecord, WaitingRecord,
};
pub use routing::{MeasuredQuality, RoutingView, TaskView};
use state::FleetState;
pub use view::{
    EligibleReplicas, FleetView, LastUse, LoadFailureView, ModelView, NodePhase, NodeReport,
    NodeView, ReplicaView,
};

/// Events that may wait for the fleet's task. When it is full, links and the watch wait:
/// nothing is dropped.
const BACKLOG: usize = 1_024;

/// Something happened to the fleet.
#[derive(Debug)]
pub enum FleetEvent {
    /// All entries of the store, as they are at a revision.
    Stored {
        entries: Vec<StoreEntry>,
        revision: StoreRevision,
    },
    /// One entry of the store changed.
    Changed(StoreChange),
    /// The store does not answer, with what it says.
    StoreAway(String),
    /// The store answers again.
    StoreBack,
    /// A node has joined; it is not ready before its sync stream is open.
    Joined {
        node: NodeName,
        record: NodeRecord,
        link: Arc<NodeLink>,
    },
    /// A node told what it runs.
    Reported {
        node: NodeName,
        session: SessionId,
        models: Vec<flotilla_proto::v1::ModelStatus>,
        energy: Option<flotilla_proto::v1::NodeEnergy>,
    },
    /// A reversed connection came or went.
    Connections { node: NodeName },
    /// A node's session has ended.
    Left { node: NodeName, session: SessionId },
}

/// The way to the fleet's task. Cheap to clone.
#[derive(Clone)]
pub struct FleetHandle {
    events: mpsc::Sender<FleetEvent>,
    view: Arc<ArcSwap<FleetView>>,
    generation: watch::Receiver<u64>,
    seen: watch::Receiver<StoreRevision>,
}

/// Where the fleet's task publishes what it knows.
struct FleetPublishers {
    view: Arc<ArcSwap<FleetView>>,
    generations: watch::Sender<u64>,
    seen: watch::Sender<StoreRevision>,
}

impl FleetHandle {
    /// A fleet as the controller `id` sees it, and the future that runs it until `stop`.
    pub fn new(
        id: &str,
        grace: Duration,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (events, inbox) = mpsc::channel(BACKLOG);
        let (generations, generation) = watch::channel(0);
        let (seen_up_to, seen) = watch::channel(StoreRevision::default());
        let view = Arc::new(ArcSwap::from_pointee(FleetView::default()));
        let outlets = FleetPublishers {
            view: view.clone(),
            generations,
            seen: seen_up_to,
        };
        let task = run(FleetState::new(id, grace), inbox, outlets, stop);
        let fleet = Self {
            events,
            view,
            generation,
            seen,
        };
        (fleet, task)
    }

    /// Tells the fleet that something happened. An event after the end is dropped.
    pub async fn tell(&self, event: FleetEvent) {
        let _ = self.events.send(event).await;
    }

    /// The fleet as it is now.
    #[must_use]
    pub fn view(&self) -> Arc<FleetView> {
        self.view.load_full()
    }

    /// The fleet as it is now, for a look that is over before the next await.
    #[must_use]
    pub fn peek(&self) -> arc_swap::Guard<Arc<FleetView>> {
        self.view.load()
    }

    /// Changes whenever a new view was published.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }

    /// Returns once the view holds what the store held at `revision`.
    pub async fn until_seen(&self, revision: StoreRevision) {
        let mut seen = self.seen.clone();
        // Without the fleet's task there is nothing to wait for.
        let _ = seen.wait_for(|seen| *seen >= revision).await;
    }
}

async fn run(
    mut state: FleetState,
    mut inbox: mpsc::Receiver<FleetEvent>,
    outlets: FleetPublishers,
    stop: CancellationToken,
) {
    let mut generation = 0;
    loop {
        // Sleeping until a far deadline stands for waiting without one.
        let now = Instant::now();
        let deadline = state
            .next_deadline()
            .unwrap_or(now + Duration::from_secs(3_600));
        let first = tokio::select! {
            () = stop.cancelled() => return,
            event = inbox.recv() => match event {
                Some(event) => Some(event),
                None => return,
            },
            () = tokio::time::sleep_until(deadline.into()) => None,
        };
        // A burst of events makes one view.
        let now = Instant::now();
        let mut changed = state.expire(now);
        if let Some(event) = first {
            changed |= state.apply(event, now);
        }
        while let Ok(event) = inbox.try_recv() {
            changed |= state.apply(event, now);
        }
        if changed {
            generation += 1;
            outlets.view.store(Arc::new(state.view(generation, now)));
            outlets.generations.send_replace(generation);
        }
        let seen = state.seen();
        outlets
            .seen
            .send_if_modified(|known| std::mem::replace(known, seen) != seen);
    }
}
