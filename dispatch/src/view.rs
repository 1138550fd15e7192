//! The view that requests are dispatched over: plain data, published as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use flotilla_core::ModelName;
use flotilla_gateway::Readiness;
use tokio::sync::watch;

use crate::{ModelEndpoints, RoutingView};

/// The models, replicas, tasks and router at one moment. A view never changes; a change is published as
/// another view.
#[derive(Debug)]
pub struct DispatchView {
    /// Number of the view, from 1. 0: the empty view before the first was published.
    pub generation: u64,
    /// The models by name, with the replicas that can answer.
    pub models: HashMap<ModelName, Arc<ModelEndpoints>>,
    /// The tasks, the router and the measured quality of the models.
    pub routing: Arc<RoutingView>,
    /// Whether requests can be answered, with notes on what is missing or degraded.
    pub readiness: Readiness,
}

impl Default for DispatchView {
    fn default() -> Self {
        Self {
            generation: 0,
            models: HashMap::new(),
            routing: Arc::default(),
            readiness: Readiness {
                ready: false,
                notes: Vec::new(),
            },
        }
    }
}

/// Reads the current view. Cheap to clone; reading takes no lock.
#[derive(Clone, Debug)]
pub struct ViewHandle {
    view: Arc<ArcSwap<DispatchView>>,
    generation: watch::Receiver<u64>,
}

impl ViewHandle {
    /// Returns the current view.
    #[must_use]
    pub fn load(&self) -> Arc<DispatchView> {
        self.view.load_full()
    }

    /// Returns the current view for a use that ends before the next await.
    #[must_use]
    pub fn peek(&self) -> Guard<Arc<DispatchView>> {
        self.view.load()
    }

    /// Returns a receiver that changes whenever a new view has been published.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }
}

/// Publishes views to every [`ViewHandle`] made by the same call of [`ViewPublisher::new`].
#[derive(Debug)]
pub struct ViewPublisher {
    view: Arc<ArcSwap<DispatchView>>,
    generation: watch::Sender<u64>,
}

impl ViewPublisher {
    /// Creates a publisher and a handle that reads the empty view until the first is published.
    #[must_use]
    pub fn new() -> (Self, ViewHandle) {
        let view = Arc::new(ArcSwap::from_pointee(DispatchView::default()));
        let (sender, generation) = watch::channel(0);
        let handle = ViewHandle {
            view: view.clone(),
            generation,
        };
        let publisher = Self {
            view,
            generation: sender,
        };
        (publisher, handle)
    }

    /// Replaces the view, and notifies all receivers of [`ViewHandle::changes`].
    pub fn publish(&self, view: DispatchView) {
        let generation = view.generation;
        self.view.store(Arc::new(view));
        self.generation.send_replace(generation);
    }
}
