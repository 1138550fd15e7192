//! Trains the classifier of tasks in the background, whenever they change.

use std::sync::Arc;
use std::time::Instant;

use flotilla_core::routing::{Classifier, TrainingSet};
use flotilla_core::spec::AbstainRule;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{RoutingView, ViewHandle};

/// A classifier and the data it was trained on.
#[derive(Debug, Default)]
pub struct TrainedClassifier {
    /// The classifier. `None` while there is no task.
    pub classifier: Option<Classifier>,
    input: TrainingInput,
}

/// The data that a classifier is trained on.
#[derive(Debug, Default)]
struct TrainingInput {
    examples: TrainingSet,
    abstain: AbstainRule,
}

impl TrainingInput {
    /// Whether it is what `routing` has now. Compares in place, since a page polls it.
    fn is_of(&self, routing: &RoutingView) -> bool {
        let router = routing.router.as_ref();
        let none = &[][..];
        let tasks = &self.examples.tasks;
        let same_tasks = tasks.len() == routing.tasks.len()
            && tasks
                .iter()
                .zip(routing.tasks.values())
                .all(|(learned, view)| {
                    let spec = &view.task.spec;
                    learned.name == *view.task.name()
                        && learned.description == spec.description
                        && learned.examples == spec.examples
                });
        same_tasks
            && self.abstain == router.map(|router| router.abstain).unwrap_or_default()
            && self.examples.out_of_scope == router.map_or(none, |router| &router.examples)
    }

    fn new(routing: &RoutingView) -> Self {
        let router = routing.router.as_ref();
        Self {
            examples: routing.examples(),
            abstain: router.map(|router| router.abstain).unwrap_or_default(),
        }
    }
}

impl TrainedClassifier {
    /// Returns whether the classifier was trained on exactly these tasks and this router.
    #[must_use]
    pub fn is_current(&self, routing: &RoutingView) -> bool {
        self.input.is_of(routing)
    }

    /// The examples that it was trained on.
    pub(crate) fn examples(&self) -> &TrainingSet {
        &self.input.examples
    }

    /// The rule of its threshold.
    pub(crate) fn abstain(&self) -> AbstainRule {
        self.input.abstain
    }
}

/// Receives the latest classifier. `None` before the tasks have been read for the first time.
pub type LatestClassifier = watch::Receiver<Option<Arc<TrainedClassifier>>>;

/// Trains a classifier whenever the tasks or the router change, until `stop`, and sends it to
/// `latest`.
pub async fn train_classifiers(
    view: ViewHandle,
    latest: watch::Sender<Option<Arc<TrainedClassifier>>>,
    stop: CancellationToken,
) {
    let mut changes = view.changes();
    let mut trained_on: Option<Arc<RoutingView>> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() {
                return;
            },
        }
        changes.borrow_and_update();
        let view = view.load();
        let unchanged = trained_on
            .as_ref()
            .is_some_and(|trained_on| Arc::ptr_eq(trained_on, &view.routing));
        if !view.readiness.ready || unchanged {
            continue;
        }
        trained_on = Some(view.routing.clone());
        let current = latest.borrow().clone();
        if current.is_some_and(|current| current.is_current(&view.routing)) {
            continue;
        }
        let input = TrainingInput::new(&view.routing);
        // Training keeps a core busy for a while.
        let trained = tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let classifier = Classifier::train(&input.examples, input.abstain);
            if let Some(classifier) = &classifier {
                let (ngrams, bytes) = classifier.size();
                let took = began.elapsed();
                tracing::info!(ngrams, bytes, ?took, "trained the task classifier");
            }
            TrainedClassifier { classifier, input }
        });
        match trained.await {
            Ok(trained) => drop(latest.send_replace(Some(Arc::new(trained)))),
            Err(error) => tracing::error!(%error, "the task classifier could not be trained"),
        }
    }
}
