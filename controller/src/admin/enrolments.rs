//! Enrolments and the fleet's authority in the admin API: revocation, and what a backup has of them.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use flotilla_core::NodeName;
use flotilla_gateway::{ApiError, ApiPath, read_json};
use flotilla_identity::authority::AuthorityRecord;
use flotilla_identity::enrolment::Enrolment;
use flotilla_telemetry::clock::unix_seconds;
use http::StatusCode;
use std::collections::BTreeMap;

use super::desired_state::DesiredStateWriter;
use super::errors::{not_found, store_failure};
use super::resources::MAX_RESOURCE;
use super::state::AdminState;
use super::watch::wait_until_synced;
use crate::fleet::records::encode;
use crate::store::{Precondition, StoreEntry, StoreError, StoreRevision, StoreWrite, keys};

/// How often a change is tried while others change the same record.
const MAX_ATTEMPTS: u32 = 5;

/// What became of a change.
enum Change {
    Written(StoreRevision),
    /// It is there already.
    Unchanged,
    /// There is nothing to change.
    Missing,
    /// Nodes have enrolled with the authority that would be replaced.
    Kept,
}

impl DesiredStateWriter {
    /// Marks a node as revoked.
    async fn revoke(&self, name: &NodeName) -> Result<Change, StoreError> {
        let key = keys::enrolment(name);
        for _ in 0..MAX_ATTEMPTS {
            let Some(entry) = self.store.get(&key).await? else {
                return Ok(Change::Missing);
            };
            let mut enrolment: Enrolment =
                serde_json::from_slice(&entry.value).map_err(|error| {
                    StoreError::Failed(format!("the enrolment cannot be read: {error}"))
                })?;
            if enrolment.revoked.is_some() {
                return Ok(Change::Unchanged);
            }
            enrolment.revoked = Some(unix_seconds());
            let unchanged = Precondition::Revision(entry.revision);
            let write = StoreWrite::put_if(key.clone(), encode(&enrolment), unchanged);
            match self.store.write(vec![write]).await {
                Err(StoreError::Conflict(_)) => {}
                written => return written.map(Change::Written),
            }
        }
        Err(StoreError::Conflict(key))
    }

    /// Gives the fleet an authority that is restored, unless nodes have enrolled with its own.
    async fn restore_authority(&self, record: &AuthorityRecord) -> Result<Change, StoreError> {
        let current = self.store.get(keys::AUTHORITY).await?;
        let is_same =
            |entry: &StoreEntry| serde_json::from_slice(&entry.value).ok().as_ref() == Some(record);
        if current.as_ref().is_some_and(is_same) {
            return Ok(Change::Unchanged);
        }
        if current.is_some() && !self.store.list(keys::ENROLMENTS).await?.is_empty() {
            return Ok(Change::Kept);
        }
        let unchanged = current.map_or(Precondition::Absent, |entry| {
            Precondition::Revision(entry.revision)
        });
        let write = StoreWrite::put_if(keys::AUTHORITY.to_owned(), encode(record), unchanged);
        self.store.write(vec![write]).await.map(Change::Written)
    }
}

/// `POST /api/v1/nodes/{name}/revoke`: cuts the node's links and lets it not come back.
pub(super) async fn revoke(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<StatusCode, ApiError> {
    let not_enrolled = || not_found("enrolled node", &name);
    let node = NodeName::new(&name).map_err(|_| not_enrolled())?;
    match state.desired.revoke(&node).await.map_err(store_failure)? {
        Change::Written(revision) => state.finish(Ok(revision)).await?,
        Change::Missing => return Err(not_enrolled()),
        Change::Unchanged | Change::Kept => {}
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/v1/authority`: the fleet's authority, whose private key is encrypted.
pub(super) async fn get_authority(
    State(state): State<AdminState>,
) -> Result<Json<Option<AuthorityRecord>>, ApiError> {
    wait_until_synced(&state).await?;
    let view = state.fleet.view();
    Ok(Json(view.authority.as_deref().cloned()))
}

/// `PUT /api/v1/authority`: gives the fleet the authority of a backup. Replies 409 if it has one that nodes have
/// enrolled with, and if this controller's secret does not open the one of the backup.
pub(super) async fn put_authority(
    State(state): State<AdminState>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let record: AuthorityRecord = read_json(body, MAX_RESOURCE).await?;
    let conflict = |problem: String| {
        let (status, code) = (StatusCode::CONFLICT, Some("conflict"));
        ApiError::new(status, "invalid_request_error", code, problem)
    };
    let Some(secret) = &state.secret else {
        return Err(conflict(
            "The backup has a certificate authority: start the controllers with --secret-file and the fleet's secret.".into(),
        ));
    };
    record.open(secret).map_err(|error| {
        conflict(format!(
            "The authority of the backup cannot be used: {error}."
        ))
    })?;
    wait_until_synced(&state).await?;
    let restored = state.desired.restore_authority(&record).await;
    match restored.map_err(store_failure)? {
        Change::Written(revision) => state.finish(Ok(revision)).await?,
        Change::Kept => {
            return Err(conflict(
                "The fleet keeps its certificate authority, since nodes have enrolled with it."
                    .into(),
            ));
        }
        Change::Unchanged | Change::Missing => {}
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /api/v1/enrolments`: the nodes that have enrolled, by name.
pub(super) async fn list(
    State(state): State<AdminState>,
) -> Result<Json<BTreeMap<NodeName, Enrolment>>, ApiError> {
    wait_until_synced(&state).await?;
    let view = state.fleet.view();
    Ok(Json(BTreeMap::clone(&view.enrolments)))
}

/// `PUT /api/v1/enrolments/{name}`: the enrolment of a backup.
pub(super) async fn put(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let enrolment: Enrolment = read_json(body, MAX_RESOURCE).await?;
    let node = NodeName::new(&name).map_err(|_| not_found("enrolled node", &name))?;
    let write = StoreWrite::put(keys::enrolment(&node), encode(&enrolment));
    let written = state.desired.write(vec![write]).await;
    state.finish(written).await?;
    Ok(StatusCode::NO_CONTENT)
}
