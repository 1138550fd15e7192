//! The classifier of tasks in the admin API.

use axum::Json;
use axum::extract::State;
use flotilla_core::routing::TaskSeparation;
use flotilla_dispatch::EncoderStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::AdminState;

/// The state of this controller's classifier of tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassifierStatus {
    /// Whether it is trained on the tasks and the router as they are now.
    pub trained: bool,
    /// The confidence below which it abstains, 0 to 1. `None` while there are no tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Number of n-grams.
    pub ngrams: usize,
    /// Memory of its weights and of the examples that it keeps, in bytes.
    pub bytes: usize,
    /// How well the tasks can be distinguished. `None` while there are no tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separation: Option<TaskSeparation>,
    /// How far the router's encoder is. `None` if the router names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderStatus>,
}

/// `GET /api/v1/classifier`.
pub(super) async fn get(State(state): State<AdminState>) -> Json<ClassifierStatus> {
    let view = state.fleet.view();
    let latest = state.classifier.borrow().clone();
    let trained = latest
        .as_ref()
        .is_some_and(|latest| latest.is_current(&view.routing));
    let classifier = latest
        .as_ref()
        .and_then(|latest| latest.classifier.as_ref());
    let (ngrams, bytes) = classifier.map_or((0, 0), |classifier| classifier.size());
    Json(ClassifierStatus {
        trained,
        threshold: classifier.map(|classifier| classifier.threshold()),
        ngrams,
        bytes,
        separation: classifier.map(|classifier| classifier.separation().clone()),
        encoder: state.encoder.borrow().status_beside(latest.as_ref()),
    })
}
