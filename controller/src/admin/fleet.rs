//! The identity of the fleet in the admin API: what a backup has of it, and giving it back to a store that
//! has lost it.

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

/// The longest id of a fleet, in bytes.
const MAX_ID: usize = 64;

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
    /// How often the store's revisions have begun anew.
    #[serde(default)]
    pub epoch: u64,
    /// Whether nodes have joined the fleet, so that it keeps its id.
    #[serde(default)]
    pub has_nodes: bool,
}

/// The id that a fleet should have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewFleetId {
    /// The id.
    pub id: String,
    /// The last epoch of the fleet that is known. The fleet gets a later one, so that its nodes obey a store
    /// whose revisions have begun anew.
    #[serde(default)]
    pub epoch: u64,
}

/// `GET /api/v1/fleet`.
pub(super) async fn get(State(state): State<AdminState>) -> Result<Json<FleetIdentity>, ApiError> {
    wait_until_synced(&state).await?;
    let view = state.fleet.view();
    Ok(Json(FleetIdentity {
        id: view.fleet_id.clone(),
        lost_id: view.lost_fleet.clone(),
        epoch: view.epoch,
        has_nodes: !view.nodes.is_empty(),
    }))
}

/// `PUT /api/v1/fleet`: gives the fleet the id of one that is restored. Nothing changes if it has that id
/// already. A fleet whose nodes obey another id keeps it.
pub(super) async fn put(
    State(state): State<AdminState>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let NewFleetId { id, epoch } = read_json(body, MAX_RESOURCE).await?;
    let is_id = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if id.is_empty() || id.len() > MAX_ID || !id.chars().all(is_id) {
        let problem = format!("It must be 1 to {MAX_ID} letters, digits or hyphens.");
        return Err(ApiError::invalid(Some("id".into()), problem));
    }
    wait_until_synced(&state).await?;
    let view = state.fleet.view();
    if let Some(kept) = kept_id(view.fleet_id.as_deref(), &id, !view.nodes.is_empty()) {
        let problem = format!("The fleet keeps the id {kept}, since its nodes obey no other.");
        let (status, code) = (StatusCode::CONFLICT, Some("conflict"));
        return Err(ApiError::new(
            status,
            "invalid_request_error",
            code,
            problem,
        ));
    }
    let written = state.desired.set_fleet_id(&id, epoch).await;
    state.finish(written).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The id that a fleet with the id `current` keeps instead of `new`, since nodes have joined it. Resources are
/// no obstacle: they may be those of a restore that was broken off.
fn kept_id<'a>(current: Option<&'a str>, new: &str, has_nodes: bool) -> Option<&'a str> {
    current.filter(|current| *current != new && has_nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_kept_only_where_nodes_obey_it() {
        assert_eq!(kept_id(Some("own"), "restored", true), Some("own"));
        // A restore that was broken off is begun again.
        assert_eq!(kept_id(Some("own"), "restored", false), None);
        assert_eq!(kept_id(Some("restored"), "restored", true), None);
        // The nodes of a fleet that the store has lost are linked.
        assert_eq!(kept_id(None, "restored", true), None);
    }
}
