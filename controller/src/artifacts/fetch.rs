//! Fetching a model's files from the source that its spec names.

use std::path::{Path, PathBuf};

use flotilla_core::Bytes;
use flotilla_core::artifact::{ArtifactFile, Manifest};
use flotilla_core::spec::{ModelFormat, ModelSource, Sha256Digest, ValidationErrors};

use super::blobs::{BlobError, BlobStore};
use super::hugging_face;
use super::source_client::SourceClient;
use super::walk::walk;

/// Why the files of a model were not fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} does not exist on the leading controller")]
    NoSuchPath(PathBuf),
    #[error("{path} cannot be read: {problem}")]
    Unreadable { path: PathBuf, problem: String },
    #[error("{url} cannot be fetched: {problem}")]
    Server { url: String, problem: String },
    #[error("{url}: {problem}")]
    File { url: String, problem: BlobError },
    #[error("the source has none of the files that a model needs")]
    NoFiles,
    #[error("the files of the source cannot be delivered: {0}")]
    Manifest(ValidationErrors),
    #[error("no artifact was pushed under this name")]
    NotPushed,
    #[error("files of the model are damaged or lost, and no controller or node has them: {0}")]
    Lost(String),
    #[error("files of the model are damaged or lost, and the source has others by now: {0}")]
    SourceChanged(String),
}

impl FetchError {
    /// What the user can do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::NoSuchPath(_) | Self::Unreadable { .. } => {
                "put the files there, or correct spec.source.controllerPath"
            }
            Self::Server { .. } => {
                "check the address and the network, and HF_TOKEN if it is not public"
            }
            Self::File { problem, .. } => match problem {
                BlobError::Digest { .. } => {
                    "the source has changed: check it, then correct spec.source.sha256"
                }
                BlobError::DiskFull => "free space below --data-dir",
                BlobError::Io(_) => "check the disk below --data-dir",
                BlobError::Source(_) => "check the network to the source",
            },
            Self::NoFiles => "name them in spec.source.huggingFace.files",
            Self::Manifest(_) => {
                "name the files that the model needs in spec.source.huggingFace.files, or remove the others from the folder"
            }
            Self::Lost(_) => "push the same files again: flotilla model push DIR --name NAME",
            Self::SourceChanged(_) => {
                "put the same files there again, or delete the model and apply it anew to take the new ones"
            }
            Self::NotPushed => "run: flotilla model push DIR --name NAME",
        }
    }
}

/// Called with the number of bytes fetched so far.
pub(super) type FetchProgress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// Fetches all files of `source` into `blobs`.
pub(super) async fn fetch(
    source: &ModelSource,
    format: Option<ModelFormat>,
    client: &SourceClient,
    blobs: &BlobStore,
    progress: FetchProgress<'_>,
) -> Result<Manifest, FetchError> {
    let files = match source {
        ModelSource::ControllerPath(path) => files_from_path(path, blobs, progress).await?,
        ModelSource::Url { url, sha256 } => {
            vec![file_from_url(url, *sha256, client, blobs, progress).await?]
        }
        ModelSource::HuggingFace(source) => {
            hugging_face::fetch(source, format, client, blobs, progress).await?
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
    blobs: &BlobStore,
    progress: FetchProgress<'_>,
) -> Result<Vec<ArtifactFile>, FetchError> {
    let root = path.to_owned();
    let walked = tokio::task::spawn_blocking(move || walk(&root)).await;
    let unreadable = |problem: String| FetchError::Unreadable {
        path: path.to_owned(),
        problem,
    };
    let paths = match walked.map_err(|e| unreadable(e.to_string()))? {
        Ok(paths) => paths,
        Err(error) if error.kind() == Some(std::io::ErrorKind::NotFound) => {
            return Err(FetchError::NoSuchPath(path.to_owned()));
        }
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let mut files = Vec::new();
    let mut fetched = 0;
    for (name, file) in paths {
        let put = blobs.put_file(&file, |done| progress(fetched + done)).await;
        files.push(manifest_file(name, &file.display().to_string(), put)?);
        fetched += files.last().map_or(0, |file| file.size.0);
    }
    Ok(files)
}

/// The manifest entry of a stored file.
pub(super) fn manifest_file(
    path: String,
    url: &str,
    put: Result<(Sha256Digest, u64), BlobError>,
) -> Result<ArtifactFile, FetchError> {
    let (sha256, size) = put.map_err(|problem| FetchError::File {
        url: url.to_owned(),
        problem,
    })?;
    Ok(ArtifactFile {
        path,
        size: Bytes(size),
        sha256,
    })
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
    let chunks = chunks.map_err(|problem| FetchError::Server {
        url: url.to_owned(),
        problem,
    })?;
    let put = blobs.put(Some(sha256), chunks, progress).await;
    manifest_file(name.to_owned(), url, put)
}
