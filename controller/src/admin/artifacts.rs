//! Model files over HTTP: uploaded by `flotilla model push`, and copied by other controllers.
//!
//! An upload puts every file as a blob under its digest, then publishes a manifest of the digests
//! under the artifact's name.

use std::time::Duration;

use axum::Json;
use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{ModelSource, Sha256Digest};
use flotilla_core::{ArtifactName, Bytes};
use flotilla_gateway::{ApiError, ApiPath, ApiQuery, PacedBody, read_json};
use futures::TryStreamExt;
use http::StatusCode;
use http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http_body_util::BodyDataStream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::{not_found, not_in_view, not_known};
use super::resources::ResourceList;
use super::state::AdminState;
use super::watch::{self, WatchQuery};
use crate::artifacts::BlobError;

/// Largest request body with a manifest, in bytes: more than the largest manifest, so that the error
/// for one that is too large says what to do.
const MAX_MANIFEST_BODY: usize = 4 << 20;

/// When a client that was refused an upload tries again.
const UPLOAD_RETRY_AFTER: Duration = Duration::from_secs(5);

/// An artifact: files that were uploaded under one name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArtifactResource {
    /// The name that models use as `spec.source.artifact`.
    pub name: String,
    /// Digest of the manifest, which identifies the files and their paths.
    pub digest: String,
    /// Size of all files together.
    pub size: Bytes,
    /// Number of files.
    pub files: usize,
    /// Names of the models whose source is this artifact.
    pub models: Vec<String>,
}

/// `GET /api/v1/artifacts`.
pub(super) async fn list(
    State(state): State<AdminState>,
    ApiQuery(query): ApiQuery<WatchQuery>,
) -> Result<Response, ApiError> {
    watch::reply(state, &query, |view| {
        let items = view.manifests.pushed.iter().map(|(name, manifest)| {
            let source = ModelSource::Artifact(name.clone());
            let models = view.models.values();
            let models = models.filter(|m| m.endpoints.model.spec.source.as_ref() == Some(&source));
            ArtifactResource {
                name: name.to_string(),
                digest: manifest.digest().to_string(),
                size: manifest.size(),
                files: manifest.files.len(),
                models: models
                    .map(|m| m.endpoints.model.name().to_string())
                    .collect(),
            }
        });
        ResourceList::new(view, items)
    })
    .await
}

/// `GET /api/v1/manifests`: the manifest of every artifact, for backups. Replies 503 while the desired state
/// is not known: a backup must not be taken for complete then.
pub(super) async fn manifests(
    State(state): State<AdminState>,
) -> Result<Json<Vec<(ArtifactName, Manifest)>>, ApiError> {
    let view = state.fleet.view();
    if !view.synced {
        return Err(not_known(&view, "Which artifacts there are"));
    }
    let artifacts = view.manifests.pushed.iter();
    let owned = artifacts.map(|(name, manifest)| (name.clone(), Manifest::clone(manifest)));
    Ok(Json(owned.collect()))
}

/// The reply to a `PUT` of an artifact.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingFiles {
    /// Digests of the files that must be uploaded before the artifact can be published. Empty when
    /// it has been published.
    pub missing: Vec<Sha256Digest>,
}

/// The query of a `PUT` of an artifact.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PublishQuery {
    /// Whether to publish the artifact although this controller does not have all of its files, so that
    /// they are looked for on other controllers and on nodes, as a restored backup requires. Default:
    /// `false`.
    #[serde(default)]
    allow_missing: bool,
}

/// `PUT /api/v1/artifacts/{name}`: publishes a manifest with status 201 when this controller has all
/// of its files; otherwise replies with status 202 and the missing ones, and publishes it only if they
/// are allowed to be missing.
pub(super) async fn put(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
    ApiQuery(query): ApiQuery<PublishQuery>,
    body: Body,
) -> Result<Response, ApiError> {
    let name = ArtifactName::new(&name)
        .map_err(|e| ApiError::invalid(None, format!("The name '{name}' {e}.")))?;
    let manifest: Manifest = read_json(body, MAX_MANIFEST_BODY).await?;
    let manifest = Manifest::new(manifest.files)
        .map_err(|errors| ApiError::invalid(None, errors.to_string()))?;
    let mut missing = Vec::new();
    for file in &manifest.files {
        match state.blobs.verified_size(file.sha256).await {
            Ok(Some(size)) if size == file.size.0 => {}
            Ok(Some(_)) => {
                let message = format!("The size of '{}' is wrong.", file.path);
                return Err(ApiError::invalid(Some("files".into()), message));
            }
            Ok(None) => missing.push(file.sha256),
            // An upload replaces it, or says what is wrong with the disk.
            Err(_) => missing.push(file.sha256),
        }
    }
    if missing.is_empty() || query.allow_missing {
        let written = state.desired.put_artifact(&name, &manifest).await;
        state.finish(written).await?;
    }
    state.uploads.announce(&manifest, &missing);
    let status = if missing.is_empty() {
        StatusCode::CREATED
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(MissingFiles { missing })).into_response())
}

/// `DELETE /api/v1/artifacts/{name}`. Replies 409 while a model uses the artifact.
pub(super) async fn delete(
    State(state): State<AdminState>,
    ApiPath(name): ApiPath<String>,
) -> Result<StatusCode, ApiError> {
    let view = state.fleet.view();
    let artifact = ArtifactName::new(&name).ok();
    let artifact = artifact.filter(|name| view.manifests.pushed.contains_key(name));
    let artifact = artifact.ok_or_else(|| not_in_view(&view, "artifact", &name))?;
    let source = ModelSource::Artifact(artifact.clone());
    let user = view
        .models
        .values()
        .find(|m| m.endpoints.model.spec.source.as_ref() == Some(&source));
    if let Some(model) = user {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            Some("artifact_in_use"),
            format!(
                "The model '{}' uses the artifact '{name}': delete or change the model first.",
                model.endpoints.model.name()
            ),
        ));
    }
    drop(view);
    let written = state.desired.delete_artifact(&artifact).await;
    state.finish(written).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn digest(text: &str) -> Result<Sha256Digest, ApiError> {
    text.parse().map_err(|_| not_found("file", text))
}

/// `PUT /api/v1/blobs/{sha256}`: stores a file under its digest. Its size is that of the manifest that
/// was sent before, and limited if there was none.
pub(super) async fn put_blob(
    State(state): State<AdminState>,
    ApiPath(sha256): ApiPath<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let expected = digest(&sha256)?;
    let Some(_upload) = state.uploads.begin() else {
        let message = "Too many files are being uploaded to this controller: try again later.";
        let kind = "rate_limit_error";
        let code = Some("too_many_uploads");
        return Err(
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, kind, code, message)
                .with_retry_after(UPLOAD_RETRY_AFTER),
        );
    };
    let max = state.uploads.max_size(expected);
    let announced = body.size_hint().lower();
    let stored = if announced > max {
        Err(BlobError::TooLarge(Bytes(max)))
    } else if let Err(error) = state.blobs.ensure_room(announced).await {
        Err(error)
    } else {
        let chunks = BodyDataStream::new(PacedBody::new(body));
        let chunks = chunks.map_err(|e| e.to_string());
        let blobs = &state.blobs;
        blobs.put_at_most(max, Some(expected), chunks, |_| {}).await
    };
    match stored {
        Ok(_) => Ok(StatusCode::CREATED),
        Err(error) => {
            let (status, code) = match error {
                BlobError::Digest { .. } => (StatusCode::BAD_REQUEST, "wrong_digest"),
                BlobError::DiskFull => (StatusCode::INSUFFICIENT_STORAGE, "disk_full"),
                BlobError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "file_too_large"),
                BlobError::Source(_) => (StatusCode::BAD_REQUEST, "upload_interrupted"),
                BlobError::Io(_) => (StatusCode::INTERNAL_SERVER_ERROR, "disk_failed"),
            };
            let remedy = match code {
                "disk_full" => {
                    " Free space below the controller's --data-dir, or delete artifacts that no model uses: their files give way an hour after they were pushed."
                }
                "file_too_large" => {
                    " Push it with `flotilla model push`, which announces its size first."
                }
                _ => "",
            };
            let message = format!("The file was not stored: {error}.{remedy}");
            Err(ApiError::new(status, "server_error", Some(code), message))
        }
    }
}

/// `GET /api/v1/blobs/{sha256}`: the content of a file.
pub(super) async fn get_blob(
    State(state): State<AdminState>,
    ApiPath(sha256): ApiPath<String>,
) -> Result<Response, ApiError> {
    let blob = state.blobs.read(digest(&sha256)?, 0).await;
    let chunks = blob
        .ok()
        .flatten()
        .ok_or_else(|| not_found("file", &sha256))?;
    let chunks = chunks.map_err(std::io::Error::other);
    // Whatever it holds, no browser takes it for a page.
    let headers = [
        (CONTENT_TYPE, "application/octet-stream"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, Body::from_stream(chunks)).into_response())
}
