//! Files of models over HTTP: pushed by `flotilla model push`, copied by other controllers.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{ModelSource, Sha256Digest};
use flotilla_core::{ArtifactName, Bytes};
use flotilla_gateway::{ApiError, read_json};
use futures::TryStreamExt;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::watch::{self, WatchQuery};
use super::{AdminState, MAX_RESOURCE, ResourceList, unknown};
use crate::artifacts::BlobError;

/// Files that were pushed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArtifactResource {
    pub name: String,
    /// Tells these files from others.
    pub digest: String,
    /// All files together.
    pub size: Bytes,
    pub files: usize,
    /// The models that name it.
    pub models: Vec<String>,
}

pub(super) async fn list(
    State(admin): State<AdminState>,
    Query(watch): Query<WatchQuery>,
) -> Response {
    watch::answer(admin.fleet, &watch, |view| {
        let items = view.files.pushed.iter().map(|(name, manifest)| {
            let source = ModelSource::Artifact(name.clone());
            let models = view.models.values();
            let models = models.filter(|m| m.model.spec.source.as_ref() == Some(&source));
            ArtifactResource {
                name: name.to_string(),
                digest: manifest.digest().to_string(),
                size: manifest.size(),
                files: manifest.files.len(),
                models: models.map(|m| m.model.name().to_string()).collect(),
            }
        });
        ResourceList::new(view, items)
    })
}

/// The files of all that was pushed, by name.
pub(super) async fn manifests(
    State(admin): State<AdminState>,
) -> Json<Vec<(ArtifactName, Manifest)>> {
    let view = admin.fleet.view();
    let pushed = view.files.pushed.iter();
    let owned = pushed.map(|(name, manifest)| (name.clone(), Manifest::clone(manifest)));
    Json(owned.collect())
}

/// What is missing before files can be named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Files that have to be uploaded before.
    pub missing: Vec<Sha256Digest>,
}

/// Names files that are there. Answers 202 with those that are not.
pub(super) async fn put(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let name = ArtifactName::new(&name)
        .map_err(|e| ApiError::invalid(None, format!("The name '{name}' {e}.")))?;
    let manifest: Manifest = read_json(body, MAX_RESOURCE).await?;
    let manifest = Manifest::new(manifest.files)
        .map_err(|faults| ApiError::invalid(None, faults.to_string()))?;
    let mut missing = Vec::new();
    for file in &manifest.files {
        match admin.blobs.size(file.sha256).await {
            Some(size) if size == file.size.0 => {}
            Some(_) => {
                let message = format!("'{}' is of another size.", file.path);
                return Err(ApiError::invalid(Some("files".into()), message));
            }
            None => missing.push(file.sha256),
        }
    }
    let status = if missing.is_empty() {
        admin.see(admin.wish.push(&name, &manifest).await).await?;
        StatusCode::CREATED
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(Missing { missing })).into_response())
}

pub(super) async fn delete(
    State(admin): State<AdminState>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let known = ArtifactName::new(&name).ok();
    let known = known.filter(|name| admin.fleet.peek().files.pushed.contains_key(name));
    let known = known.ok_or_else(|| unknown("artifact", &name))?;
    let source = ModelSource::Artifact(known.clone());
    let view = admin.fleet.view();
    let user = view
        .models
        .values()
        .find(|m| m.model.spec.source.as_ref() == Some(&source));
    if let Some(model) = user {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            Some("artifact_in_use"),
            format!(
                "The model '{}' is made of the artifact '{name}': delete or change it first.",
                model.model.name()
            ),
        ));
    }
    admin.see(admin.wish.delete_pushed(&known).await).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn digest(text: &str) -> Result<Sha256Digest, ApiError> {
    text.parse().map_err(|_| unknown("file", text))
}

/// Takes a file in; its name is its digest.
pub(super) async fn put_blob(
    State(admin): State<AdminState>,
    Path(sha256): Path<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let wanted = digest(&sha256)?;
    let pieces = body.into_data_stream().map_err(|e| e.to_string());
    match admin.blobs.put(Some(wanted), pieces, |_| {}).await {
        Ok(_) => Ok(StatusCode::CREATED),
        Err(error) => {
            let (status, code) = match error {
                BlobError::Digest { .. } => (StatusCode::BAD_REQUEST, "wrong_digest"),
                BlobError::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
                BlobError::Source(_) => (StatusCode::BAD_REQUEST, "broken_off"),
                BlobError::Io(_) => (StatusCode::INTERNAL_SERVER_ERROR, "disk_failed"),
            };
            let message = format!("The file was not taken: {error}.");
            Err(ApiError::new(status, "server_error", Some(code), message))
        }
    }
}

/// Gives a file.
pub(super) async fn get_blob(
    State(admin): State<AdminState>,
    Path(sha256): Path<String>,
) -> Result<Response, ApiError> {
    let found = admin.blobs.read(digest(&sha256)?, 0).await;
    let pieces = found
        .ok()
        .flatten()
        .ok_or_else(|| unknown("file", &sha256))?;
    let pieces = pieces.map_err(std::io::Error::other);
    Ok(Body::from_stream(pieces).into_response())
}
