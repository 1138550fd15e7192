//! Controllers in the admin API.

use axum::extract::State;
use axum::response::Response;
use flotilla_gateway::{ApiError, ApiQuery};
use serde::{Deserialize, Serialize};

use super::resources::ResourceList;
use super::state::AdminState;
use super::watch::{self, WatchQuery};
use crate::fleet::{ControllerRecord, FleetView};

/// A controller of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerResource {
    /// Id that the controller chose at its start.
    pub id: String,
    /// Whether it is the leader, which solves the placement.
    pub leader: bool,
    /// Whether it is the controller that sent this reply.
    pub local: bool,
    /// Its addresses and version.
    #[serde(flatten)]
    pub record: ControllerRecord,
}

/// `GET /api/v1/controllers`.
pub(super) async fn list(
    State(state): State<AdminState>,
    ApiQuery(query): ApiQuery<WatchQuery>,
) -> Result<Response, ApiError> {
    let id = state.id.clone();
    watch::reply(state, &query, move |view| {
        ResourceList::new(view, controllers(view, &id).into_iter())
    })
    .await
}

/// All controllers of a view, as seen by the one with the id `local`.
pub(super) fn controllers(view: &FleetView, local: &str) -> Vec<ControllerResource> {
    let controllers = view.controllers.iter();
    controllers
        .map(|(id, record)| ControllerResource {
            id: id.clone(),
            leader: view.leader.as_ref() == Some(id),
            local: *id == local,
            record: record.clone(),
        })
        .collect()
}
