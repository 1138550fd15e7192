//! The state that the handlers of the admin API share, and how they finish a change.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use flotilla_core::spec::{FieldChange, Resource};
use flotilla_dispatch::{LatestClassifier, LatestEncoder};
use flotilla_gateway::ApiError;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::apply_result::{Applied, ApplyResult};
use super::apply_warnings;
use super::desired_state::DesiredStateWriter;
use super::errors::{not_found, store_failure};
use flotilla_identity::authority::FleetSecret;

use crate::artifacts::{BlobStore, Uploads};
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
    /// The fleet's secret, which opens its authority. `None`: this controller has none.
    pub(super) secret: Option<FleetSecret>,
    pub(super) desired: DesiredStateWriter,
    pub(super) blobs: BlobStore,
    pub(super) uploads: Uploads,
    pub(super) classifier: LatestClassifier,
    pub(super) encoder: LatestEncoder,
    /// Cancelled when the controller begins to stop; ends the watched lists.
    pub(super) drain: CancellationToken,
}

/// What this controller classifies requests by.
pub(crate) struct TrainedClassifiers {
    /// The classifier of tasks.
    pub(crate) classifier: LatestClassifier,
    /// The router's encoder.
    pub(crate) encoder: LatestEncoder,
}

/// The reply to a `PUT` of a resource.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplyReply {
    /// What applying the resource did.
    pub result: ApplyResult,
    /// The fields that it changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
    /// Whether the desired revision had failed and is tried again.
    #[serde(default)]
    pub retries_failed_revision: bool,
    /// What is missing for the resource to work, such as a source that does not exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl ApplyReply {
    pub(super) fn new(applied: Applied, warnings: Vec<String>) -> Self {
        Self {
            result: applied.result,
            changes: applied.changes,
            retries_failed_revision: applied.retries_failed_revision,
            warnings,
        }
    }
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

    /// Makes `resource` the desired state, as the client wrote it in `document`, and replies with what that changed.
    ///
    /// # Errors
    /// Those of [`AdminState::finish`].
    pub(super) async fn apply(
        &self,
        resource: &Resource,
        document: &Value,
    ) -> Result<Response, ApiError> {
        let applied = self.desired.apply_document(resource, document).await;
        let applied = applied.map_err(store_failure)?;
        self.finish(Ok(applied.revision)).await?;
        let status = match applied.result {
            ApplyResult::Created => StatusCode::CREATED,
            ApplyResult::Configured | ApplyResult::Unchanged => StatusCode::OK,
        };
        let warnings = apply_warnings::find(resource, &self.fleet.view()).await;
        let reply = ApplyReply::new(applied, warnings);
        Ok((status, Json(reply)).into_response())
    }
}
