//! The identity of the fleet in the admin API: what a backup has of it, and giving it back to a store that
//! has lost it.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use flotilla_gateway::{ApiError, read_json};
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::resources::MAX_RESOURCE;
use super::state::AdminState;
use super::watch::wait_until_synced;
use crate::fleet::{FleetHandle, FleetView};

/// The longest id of a fleet, in bytes.
const MAX_ID: usize = 64;
/// How long a change of the id waits until the models of the store are assigned to nodes. Nodes that follow
/// the store again before that would unload what they run.
const ASSIGNMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The identity of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetIdentity {
    /// The id of the fleet in the store. Nodes obey only the fleet that they belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The fleet that the controller belonged to, while the store has another one or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_id: Option<String>,
    /// Whether the fleet has no resources and no nodes, so that its id may be replaced.
    #[serde(default)]
    pub empty: bool,
}

/// The id that a fleet should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewFleetId {
    /// The id.
    pub id: String,
    /// The id that the fleet has now. Absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<String>,
}

/// `GET /api/v1/fleet`.
pub(super) async fn get(State(state): State<AdminState>) -> Result<Json<FleetIdentity>, ApiError> {
    wait_until_synced(&state).await?;
    let view = state.fleet.view();
    Ok(Json(FleetIdentity {
        id: view.fleet_id.clone(),
        lost_id: view.lost_fleet.clone(),
        empty: is_empty(&view),
    }))
}

/// `PUT /api/v1/fleet`: gives the fleet the id of one that is restored.
pub(super) async fn put(
    State(state): State<AdminState>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let NewFleetId { id, replaces } = read_json(body, MAX_RESOURCE).await?;
    let is_id = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if id.is_empty() || id.len() > MAX_ID || !id.chars().all(is_id) {
        let problem = format!("It must be 1 to {MAX_ID} letters, digits or hyphens.");
        return Err(ApiError::invalid(Some("id".into()), problem));
    }
    wait_for_assignments(&state.fleet).await;
    let written = state.desired.set_fleet_id(&id, replaces.as_deref()).await;
    state.finish(written).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Waits until every model that needs a replica is assigned to a node, for a limited time: some cannot be.
async fn wait_for_assignments(fleet: &FleetHandle) {
    let mut changes = fleet.changes();
    let assigned = async {
        loop {
            changes.borrow_and_update();
            let view = fleet.view();
            let mut models = view.models.values();
            if models.all(|model| !model.assigned.is_empty()) || changes.changed().await.is_err() {
                return;
            }
        }
    };
    // Afterwards the rest is placed when it can be.
    let _ = tokio::time::timeout(ASSIGNMENT_TIMEOUT, assigned).await;
}

fn is_empty(view: &FleetView) -> bool {
    view.models.is_empty()
        && view.nodes.is_empty()
        && view.routing.tasks.is_empty()
        && view.manifests.pushed.is_empty()
}
