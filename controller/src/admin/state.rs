//! The state that the handlers of the admin API share, and how they finish a change.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use flotilla_core::spec::Resource;
use flotilla_dispatch::LatestClassifier;
use flotilla_gateway::ApiError;
use http::StatusCode;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::desired_state::{ApplyResult, DesiredStateWriter};
use super::errors::{not_found, store_failure};
use crate::artifacts::BlobStore;
use crate::fleet::FleetHandle;
use crate::store::{StoreError, StoreRevision};

/// Longest wait until this controller's view contains a change that it has written.
const VIEW_TIMEOUT: Duration = Duration::from_secs(1);

/// The parts of the controller that the handlers need.
#[derive(Clone)]
pub(super) struct AdminState {
    /// Id of this controller.
    pub(super) id: String,
    pub(super) fleet: FleetHandle,
    pub(super) desired: DesiredStateWriter,
    pub(super) blobs: BlobStore,
    pub(super) classifier: LatestClassifier,
    /// Cancelled when the controller begins to stop; ends the watched lists.
    pub(super) drain: CancellationToken,
}

/// The reply to a `PUT` of a resource.
#[derive(Serialize)]
struct ApplyReply {
    result: ApplyResult,
}

impl AdminState {
    /// Finishes a change: waits until this controller's view contains it, so that the client reads
    /// its own write here.
    ///
    /// # Errors
    /// 409 or 503 when the store did not accept the change.
    pub(super) async fn finish(
        &self,
        written: Result<StoreRevision, StoreError>,
    ) -> Result<(), ApiError> {
        let revision = written.map_err(store_failure)?;
        // A timeout is no failure: the change is written, and the watch of the store delivers it.
        let _ = tokio::time::timeout(VIEW_TIMEOUT, self.fleet.wait_for_revision(revision)).await;
        Ok(())
    }

    /// Finishes a deletion.
    ///
    /// # Errors
    /// 404 when the resource did not exist (`Ok(None)`), and those of [`AdminState::finish`].
    pub(super) async fn finish_deletion(
        &self,
        kind: &str,
        name: &str,
        deleted: Result<Option<StoreRevision>, StoreError>,
    ) -> Result<StatusCode, ApiError> {
        let revision = deleted.map_err(store_failure)?;
        let revision = revision.ok_or_else(|| not_found(kind, name))?;
        self.finish(Ok(revision)).await?;
        Ok(StatusCode::NO_CONTENT)
    }

    /// Makes `resource` the desired state, and replies with what that changed.
    ///
    /// # Errors
    /// Those of [`AdminState::finish`].
    pub(super) async fn apply(&self, resource: &Resource) -> Result<Response, ApiError> {
        let applied = self.desired.apply(resource).await;
        let (result, revision) = applied.map_err(store_failure)?;
        self.finish(Ok(revision)).await?;
        let status = match result {
            ApplyResult::Created => StatusCode::CREATED,
            ApplyResult::Changed | ApplyResult::Unchanged => StatusCode::OK,
        };
        Ok((status, Json(ApplyReply { result })).into_response())
    }
}
