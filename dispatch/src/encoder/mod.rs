//! The encoder: a model of the fleet that makes vectors of sentences, by which the requests are classified that the
//! classifier is unsure of. `trainer.rs` embeds the examples of the tasks in the background; `classification.rs` is in
//! the path of requests; both send texts through `call.rs`, within the privacy zones of `zones.rs`.

mod call;
mod classification;
mod trainer;
mod vector_cache;
mod zones;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use flotilla_core::routing::{CircuitBreaker, EncoderClassifier, EncoderReport};
use flotilla_core::{ModelName, ModelRevision};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};

use crate::TrainedClassifier;
pub(crate) use classification::UnsureRequest;
pub(crate) use trainer::EncoderTrainer;

/// The most requests of a controller that use the encoder at once. Further ones do not wait: the classifier decides. Four
/// keep two cores busy at 10 ms a text; more would only wait for each other.
const MAX_IN_FLIGHT: usize = 4;

/// The encoder of the router, and what was trained with it.
#[derive(Debug, Clone, Default)]
pub struct EncoderState {
    /// How far it is. `None` while the router names no encoder.
    pub status: Option<EncoderStatus>,
    /// The latest classifier of vectors. It may be older than the tasks.
    pub(crate) trained: Option<Arc<TrainedEncoder>>,
}

impl EncoderState {
    /// How far the encoder is for this classifier of tasks, the latest one. `None` while the router names no encoder.
    #[must_use]
    pub fn status_beside(&self, latest: Option<&Arc<TrainedClassifier>>) -> Option<EncoderStatus> {
        let trained = self.trained.as_ref().zip(latest);
        let is_current =
            trained.is_some_and(|(trained, latest)| Arc::ptr_eq(&trained.beside, latest));
        let mut status = self.status.clone()?;
        status.trained &= is_current;
        Some(status)
    }
}

/// How far the encoder of the router is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EncoderStatus {
    /// The model that makes vectors of texts.
    #[schemars(with = "String")]
    pub model: ModelName,
    /// Number of examples that it learns from, names and descriptions of tasks included.
    pub examples: usize,
    /// How many of them it has embedded.
    pub embedded: usize,
    /// Whether it is trained on the tasks as they were last.
    pub trained: bool,
    /// Why it is not trained. `None` if it is, or while examples are being embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How it does on held-out examples. `None` until it is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<EncoderReport>,
}

/// A classifier of vectors and what it was trained with.
#[derive(Debug)]
pub(crate) struct TrainedEncoder {
    pub(crate) classifier: EncoderClassifier,
    /// The classifier that it was trained beside.
    pub(crate) beside: Arc<TrainedClassifier>,
    pub(crate) model: ModelName,
    /// The revision of the model that made the vectors: those of others are not comparable.
    pub(crate) revision: ModelRevision,
}

impl TrainedEncoder {
    /// The status of a trained encoder.
    fn status(&self) -> EncoderStatus {
        let report = self.classifier.report().clone();
        EncoderStatus {
            model: self.model.clone(),
            examples: report.examples,
            embedded: report.examples,
            trained: true,
            problem: None,
            report: Some(report),
        }
    }
}

/// Receives the latest state of the encoder.
pub type LatestEncoder = watch::Receiver<EncoderState>;

/// The encoder as the requests of a dispatcher use it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Encoder {
    state: watch::Sender<EncoderState>,
    /// Permits for the requests that use it at once.
    permits: Arc<Semaphore>,
    /// Keeps requests away from an encoder that was too slow three times in a row, so that they do not all wait.
    breaker: Arc<Mutex<CircuitBreaker>>,
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new(EncoderState::default()),
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            breaker: Arc::default(),
        }
    }

    pub(crate) fn latest(&self) -> LatestEncoder {
        self.state.subscribe()
    }
}
