//! Keeps the classifier as the tasks are: it is trained anew whenever their examples change,
//! beside the requests, which the old one serves until the new one is there.

use std::sync::Arc;
use std::time::Instant;

use flotilla_core::routing::{Classifier, TrainingSet};
use flotilla_core::spec::AbstainRule;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fleet::{FleetHandle, RoutingView};

/// A classifier and what it learnt from.
#[derive(Debug, Default)]
pub(crate) struct TrainedClassifier {
    /// `None` while there is no task.
    pub(crate) classifier: Option<Classifier>,
    lesson: TrainingInput,
}

/// What a classifier depends on.
#[derive(Debug, Default, PartialEq)]
struct TrainingInput {
    examples: TrainingSet,
    abstain: AbstainRule,
}

impl TrainingInput {
    fn of(routing: &RoutingView) -> Self {
        let router = routing.router.as_ref();
        Self {
            examples: routing.examples(),
            abstain: router.map(|router| router.abstain).unwrap_or_default(),
        }
    }
}

impl TrainedClassifier {
    /// Whether it knows the tasks as they are now.
    pub(crate) fn knows(&self, routing: &RoutingView) -> bool {
        self.lesson == TrainingInput::of(routing)
    }
}

/// The newest classifier. `None` before the store was read for the first time.
pub(crate) type LatestClassifier = watch::Receiver<Option<Arc<TrainedClassifier>>>;

/// Trains until `stop`, and tells `newest` of every classifier.
pub(crate) async fn run(
    fleet: FleetHandle,
    newest: watch::Sender<Option<Arc<TrainedClassifier>>>,
    stop: CancellationToken,
) {
    let mut changes = fleet.changes();
    let mut learnt: Option<Arc<RoutingView>> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            },
        }
        changes.borrow_and_update();
        let view = fleet.view();
        let same = learnt
            .as_ref()
            .is_some_and(|l| Arc::ptr_eq(l, &view.routing));
        if !view.synced || same {
            continue;
        }
        learnt = Some(view.routing.clone());
        let known = newest.borrow().clone();
        if known.is_some_and(|known| known.knows(&view.routing)) {
            continue;
        }
        let lesson = TrainingInput::of(&view.routing);
        // It keeps a core busy for a while.
        let trained = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            let classifier = Classifier::train(&lesson.examples, lesson.abstain);
            if let Some(classifier) = &classifier {
                let (ngrams, bytes) = classifier.size();
                let took = begun.elapsed();
                tracing::info!(ngrams, bytes, ?took, "learnt to tell the tasks apart");
            }
            TrainedClassifier { classifier, lesson }
        });
        match trained.await {
            Ok(trained) => drop(newest.send_replace(Some(Arc::new(trained)))),
            Err(error) => tracing::error!(%error, "the classifier could not be trained"),
        }
    }
}
