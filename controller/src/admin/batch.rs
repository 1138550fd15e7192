//! Many resources in one request: applied and deleted in few transactions, with one wait for the view.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use flotilla_core::spec::{KINDS, Resource};
use flotilla_gateway::{ApiError, read_json};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::apply_warnings;
use super::errors::store_failure;
use super::resources::{check_resource, check_size};
use super::state::{AdminState, ApplyReply};
use crate::audit::ChangedObjects;

/// Largest request body, in bytes.
const MAX_BODY: usize = 16 << 20;
/// The most resources of one request.
const MAX_RESOURCES: usize = 1_000;

/// Resources to apply.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApplyBatch {
    /// The resources, as in their YAML: at most 1,000, each at most once.
    resources: Vec<Value>,
}

/// What applying resources did, in their order.
#[derive(Debug, Serialize, Deserialize)]
pub struct ApplyBatchReply {
    /// One result for each resource.
    pub results: Vec<AppliedResource>,
}

/// What applying one resource of several did.
#[derive(Debug, Serialize, Deserialize)]
pub struct AppliedResource {
    /// The kind of the resource.
    pub kind: String,
    /// The name of the resource.
    pub name: String,
    /// What applying it did.
    #[serde(flatten)]
    pub reply: ApplyReply,
}

/// A resource to delete.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceName {
    /// The kind: `Model`, `Task` or `Router`.
    pub kind: String,
    /// The name of the resource.
    pub name: String,
}

/// Resources to delete.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteBatch {
    /// The resources: at most 1,000.
    pub resources: Vec<ResourceName>,
}

/// What deleting resources did, in their order.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DeleteBatchReply {
    /// Whether each resource existed and was deleted.
    pub deleted: Vec<bool>,
}

/// `POST /api/v1/apply`: applies resources. Nothing is changed if one of them is invalid.
pub(super) async fn apply(
    State(state): State<AdminState>,
    body: Body,
) -> Result<Response, ApiError> {
    let documents = read_documents(body).await?;
    let names = documents.iter();
    let names = names.map(|(resource, _)| object(resource.kind(), resource.name()));
    // After an error a part of them may have been applied.
    let changed = Extension(ChangedObjects(names.collect()));
    let applied = apply_documents(&state, &documents).await;
    Ok((changed, applied).into_response())
}

/// The name of a resource in audit records.
fn object(kind: &str, name: &str) -> String {
    format!("{}/{name}", kind.to_lowercase())
}

/// Reads and checks resources to apply, each with the document as the client wrote it.
async fn read_documents(body: Body) -> Result<Vec<(Resource, Value)>, ApiError> {
    let batch: ApplyBatch = read_json(body, MAX_BODY).await?;
    check_count(batch.resources.len())?;
    let mut documents = Vec::with_capacity(batch.resources.len());
    let mut indexes = HashMap::new();
    for (index, document) in batch.resources.into_iter().enumerate() {
        let invalid =
            |problem: String| ApiError::invalid(Some(format!("resources[{index}]")), problem);
        let resource = Resource::from_json(document.clone())
            .map_err(|errors| invalid(format!("resources[{index}]: {errors}")))?;
        check_size(&resource, &document)
            .and_then(|()| check_resource(&resource).map_err(|(_, problem)| problem))
            .map_err(|problem| invalid(format!("resources[{index}]: {problem}")))?;
        let key = (resource.kind(), resource.name().to_owned());
        if let Some(first) = indexes.insert(key, index) {
            return Err(invalid(format!(
                "resources[{index}] is the same resource as resources[{first}]."
            )));
        }
        documents.push((resource, document));
    }
    Ok(documents)
}

async fn apply_documents(
    state: &AdminState,
    documents: &[(Resource, Value)],
) -> Result<Json<ApplyBatchReply>, ApiError> {
    let applied = state.desired.apply_documents(documents).await;
    let applied = applied.map_err(store_failure)?;
    if let Some(revision) = applied.iter().map(|applied| applied.revision).max() {
        state.finish(Ok(revision)).await?;
    }
    let view = state.fleet.view();
    let mut results = Vec::with_capacity(documents.len());
    for ((resource, _), applied) in documents.iter().zip(applied) {
        results.push(AppliedResource {
            kind: resource.kind().to_owned(),
            name: resource.name().to_owned(),
            reply: ApplyReply::new(applied, apply_warnings::find(resource, &view).await),
        });
    }
    Ok(Json(ApplyBatchReply { results }))
}

/// `POST /api/v1/delete`: deletes resources. Those that do not exist are no error.
pub(super) async fn delete(
    State(state): State<AdminState>,
    body: Body,
) -> Result<Response, ApiError> {
    let batch: DeleteBatch = read_json(body, MAX_BODY).await?;
    check_count(batch.resources.len())?;
    for (index, resource) in batch.resources.iter().enumerate() {
        if !KINDS.contains(&resource.kind.as_str()) {
            let problem = format!("'{}' is not one of {}.", resource.kind, KINDS.join(", "));
            let field = format!("resources[{index}].kind");
            return Err(ApiError::invalid(Some(field), problem));
        }
    }
    let names = batch.resources.iter();
    let names = names.map(|resource| object(&resource.kind, &resource.name));
    let changed = Extension(ChangedObjects(names.collect()));
    let deleted = delete_resources(&state, &batch.resources).await;
    Ok((changed, deleted).into_response())
}

async fn delete_resources(
    state: &AdminState,
    resources: &[ResourceName],
) -> Result<Json<DeleteBatchReply>, ApiError> {
    let deleted = state.desired.delete_resources(resources).await;
    let (deleted, revision) = deleted.map_err(store_failure)?;
    if let Some(revision) = revision {
        state.finish(Ok(revision)).await?;
    }
    Ok(Json(DeleteBatchReply { deleted }))
}

fn check_count(count: usize) -> Result<(), ApiError> {
    if count > MAX_RESOURCES {
        let problem =
            format!("At most {MAX_RESOURCES} resources can be sent at once, not {count}.");
        return Err(ApiError::invalid(Some("resources".into()), problem));
    }
    Ok(())
}
