//! Fetching a model's files from the source that its spec names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_core::artifact::{ArtifactFile, Manifest};
use flotilla_core::spec::{ModelFormat, ModelSource, Sha256Digest};
use flotilla_durable::is_below;

use super::blobs::BlobStore;
use super::fetched_file::{FetchError, FetchProgress, check_room, manifest_file};
use super::hugging_face;
use super::source_client::SourceClient;
use super::walk::{WalkError, walk};

/// What the files of models may be fetched from. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SourceAccess {
    /// The client for servers.
    pub(crate) client: SourceClient,
    /// See [`ControllerConfig::model_roots`](crate::ControllerConfig::model_roots).
    pub(crate) model_roots: Arc<[PathBuf]>,
}

/// Fetches all files of `source` into `blobs`.
pub(super) async fn fetch(
    source: &ModelSource,
    format: Option<ModelFormat>,
    access: &SourceAccess,
    blobs: &BlobStore,
    progress: FetchProgress<'_>,
) -> Result<Manifest, FetchError> {
    let files = match source {
        ModelSource::ControllerPath(path) => {
            files_from_path(path, &access.model_roots, blobs, progress).await?
        }
        ModelSource::Url { url, sha256 } => {
            vec![file_from_url(url, *sha256, &access.client, blobs, progress).await?]
        }
        ModelSource::HuggingFace(source) => {
            hugging_face::fetch(source, format, &access.client, blobs, progress).await?
        }
        ModelSource::Artifact(_) => return Err(FetchError::NotPushed),
        ModelSource::Path(_) => Vec::new(),
    };
    if files.is_empty() {
        return Err(FetchError::NoFiles);
    }
    Manifest::new(files).map_err(FetchError::Manifest)
}

/// Stores the files below a path of this machine.
async fn files_from_path(
    path: &Path,
    model_roots: &Arc<[PathBuf]>,
    blobs: &BlobStore,
    progress: FetchProgress<'_>,
) -> Result<Vec<ArtifactFile>, FetchError> {
    let (root, stored) = (path.to_owned(), blobs.sizes());
    let roots = model_roots.clone();
    let walked = tokio::task::spawn_blocking(move || {
        if !is_below(&root, &roots).unwrap_or(false) {
            return Ok(None);
        }
        let paths = walk(&root)?;
        let sizes = paths.iter().filter_map(|(_, file)| file.metadata().ok());
        // A file of a stored one's size is most likely that one, of an attempt before.
        let sizes = sizes
            .map(|file| file.len())
            .filter(|size| !stored.contains(size));
        let new_bytes: u64 = sizes.sum();
        Ok::<_, WalkError>(Some((paths, new_bytes)))
    })
    .await;
    let unreadable = |problem: String| FetchError::Unreadable {
        path: path.to_owned(),
        problem,
    };
    let (paths, new_bytes) = match walked.map_err(|e| unreadable(e.to_string()))? {
        Ok(Some(walked)) => walked,
        Ok(None) => return Err(FetchError::OutsideModelRoots(path.to_owned())),
        Err(error) if error.kind() == Some(std::io::ErrorKind::NotFound) => {
            return Err(FetchError::NoSuchPath(path.to_owned()));
        }
        Err(error) => return Err(unreadable(error.to_string())),
    };
    check_room(&path.display().to_string(), new_bytes, blobs).await?;
    let mut files = Vec::new();
    let mut fetched = 0;
    for (name, file) in paths {
        let put = blobs.put_file(&file, |done| progress(fetched + done)).await;
        files.push(manifest_file(name, &file.display().to_string(), put)?);
        fetched += files.last().map_or(0, |file| file.size.0);
    }
    Ok(files)
}

/// Stores the file at a URL. Skips the download when the file is already stored.
async fn file_from_url(
    url: &str,
    sha256: Sha256Digest,
    client: &SourceClient,
    blobs: &BlobStore,
    progress: FetchProgress<'_>,
) -> Result<ArtifactFile, FetchError> {
    let name = url.split(['?', '#']).next().unwrap_or(url);
    let name = name
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or("model");
    if let Ok(Some(size)) = blobs.verified_size(sha256).await {
        return manifest_file(name.to_owned(), url, Ok((sha256, size)));
    }
    let chunks = client.download(url, None).await;
    let (size, chunks) = chunks.map_err(|problem| FetchError::Server {
        url: url.to_owned(),
        problem,
    })?;
    check_room(url, size.unwrap_or(0), blobs).await?;
    let put = blobs.put(Some(sha256), chunks, progress).await;
    manifest_file(name.to_owned(), url, put)
}
