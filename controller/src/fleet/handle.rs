//! The task that owns the state of the fleet, and the handle to reach it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use flotilla_core::StoreRevision;
use flotilla_dispatch::{ViewHandle, ViewPublisher};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::state::FleetState;
use super::{FleetEvent, FleetView};

/// Capacity of the event channel. When it is full, the senders wait: the links and the watch on
/// the store. No event is dropped.
const EVENT_CAPACITY: usize = 1_024;

/// The longest sleep of the task while it has no deadline.
const IDLE_SLEEP: Duration = Duration::from_secs(3_600);

/// Sends events to the task that owns the fleet's state, and reads its views. Cheap to clone.
#[derive(Clone)]
pub struct FleetHandle {
    events: mpsc::Sender<FleetEvent>,
    view: Arc<ArcSwap<FleetView>>,
    dispatch_view: ViewHandle,
    generation: watch::Receiver<u64>,
    store_revision: watch::Receiver<StoreRevision>,
}

/// The sending sides of what a [`FleetHandle`] reads.
struct FleetPublishers {
    view: Arc<ArcSwap<FleetView>>,
    dispatch_view: ViewPublisher,
    generation: watch::Sender<u64>,
    store_revision: watch::Sender<StoreRevision>,
}

impl FleetHandle {
    /// Creates the handle of the fleet for the controller `id`, and the future that runs the task
    /// until `stop` is cancelled. A node that is disconnected for longer than `grace` is lost.
    pub fn new(
        id: &str,
        grace: Duration,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (sender, events) = mpsc::channel(EVENT_CAPACITY);
        let (generation_sender, generation) = watch::channel(0);
        let (revision_sender, store_revision) = watch::channel(StoreRevision::default());
        let view = Arc::new(ArcSwap::from_pointee(FleetView::default()));
        let (dispatch_publisher, dispatch_view) = ViewPublisher::new();
        let publishers = FleetPublishers {
            view: view.clone(),
            dispatch_view: dispatch_publisher,
            generation: generation_sender,
            store_revision: revision_sender,
        };
        let task = run(FleetState::new(id, grace), events, publishers, stop);
        let handle = Self {
            events: sender,
            view,
            dispatch_view,
            generation,
            store_revision,
        };
        (handle, task)
    }

    /// Sends an event to the task. The event is dropped if the task has ended.
    pub async fn send(&self, event: FleetEvent) {
        let _ = self.events.send(event).await;
    }

    /// Returns the current view.
    #[must_use]
    pub fn view(&self) -> Arc<FleetView> {
        self.view.load_full()
    }

    /// Returns the current view for a use that ends before the next await. Cheaper than
    /// [`view`](Self::view).
    #[must_use]
    pub fn peek(&self) -> arc_swap::Guard<Arc<FleetView>> {
        self.view.load()
    }

    /// Returns the handle of the part of the view that requests are dispatched over.
    #[must_use]
    pub fn dispatch_view(&self) -> ViewHandle {
        self.dispatch_view.clone()
    }

    /// Returns a receiver that changes whenever a new view was published.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }

    /// Returns the newest revision of the store whose changes are applied.
    #[must_use]
    pub(crate) fn applied_revision(&self) -> StoreRevision {
        *self.store_revision.borrow()
    }

    /// Waits until the view contains the store's changes up to `revision`.
    pub async fn wait_for_revision(&self, revision: StoreRevision) {
        let mut current = self.store_revision.clone();
        // An error means that the task has ended: the view will not change any more.
        let _ = current.wait_for(|current| *current >= revision).await;
    }
}

/// Applies events to the state and publishes a view after each batch that changed it.
async fn run(
    mut state: FleetState,
    mut events: mpsc::Receiver<FleetEvent>,
    publishers: FleetPublishers,
    stop: CancellationToken,
) {
    let mut generation = 0;
    loop {
        let deadline = state
            .next_deadline()
            .unwrap_or_else(|| Instant::now() + IDLE_SLEEP);
        let first = tokio::select! {
            () = stop.cancelled() => return,
            event = events.recv() => match event {
                Some(event) => Some(event),
                None => return,
            },
            () = tokio::time::sleep_until(deadline.into()) => None,
        };
        // All events that are waiting go into one view.
        let now = Instant::now();
        let mut changed = state.expire(now);
        if let Some(event) = first {
            changed |= state.apply(event, now);
        }
        while let Ok(event) = events.try_recv() {
            changed |= state.apply(event, now);
        }
        if changed {
            generation += 1;
            let view = state.build_view(generation, now);
            let dispatch_view = view.dispatch_view();
            publishers.view.store(Arc::new(view));
            publishers.dispatch_view.publish(dispatch_view);
            publishers.generation.send_replace(generation);
        }
        let revision = state.store_revision();
        publishers
            .store_revision
            .send_if_modified(|current| std::mem::replace(current, revision) != revision);
    }
}
