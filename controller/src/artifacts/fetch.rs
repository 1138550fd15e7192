//! Fetching a model's files from the source that its spec names.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_core::artifact::{ArtifactFile, Manifest};
use flotilla_core::spec::{
    HuggingFaceSource, ModelFormat, ModelSource, Sha256Digest, ValidationErrors,
};
use futures::TryStreamExt;
use hf_hub::api::tokio::{ApiBuilder, ApiError};
use hf_hub::{Repo, RepoType};

use super::blobs::{BlobError, BlobStore};
use super::walk::walk;

/// Longest time that a server may send nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

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
            Self::NotPushed => "run: flotilla model push DIR --name NAME",
        }
    }
}

/// Called with the number of bytes fetched so far.
pub(super) type FetchProgress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// Fetches all files of `source` into `blobs`. `scratch` is a folder for unfinished downloads.
pub(super) async fn fetch(
    source: &ModelSource,
    format: Option<ModelFormat>,
    blobs: &BlobStore,
    scratch: &Path,
    progress: FetchProgress<'_>,
) -> Result<Manifest, FetchError> {
    let files = match source {
        ModelSource::ControllerPath(path) => files_from_path(path, blobs, progress).await?,
        ModelSource::Url { url, sha256 } => {
            vec![file_from_url(url, *sha256, blobs, progress).await?]
        }
        ModelSource::HuggingFace(source) => {
            files_from_hugging_face(source, format, blobs, scratch, progress).await?
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
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
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
fn manifest_file(
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
    blobs: &BlobStore,
    progress: FetchProgress<'_>,
) -> Result<ArtifactFile, FetchError> {
    let name = url.split(['?', '#']).next().unwrap_or(url);
    let name = name
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or("model");
    if let Some(size) = blobs.size(sha256).await {
        return manifest_file(name.to_owned(), url, Ok((sha256, size)));
    }
    let failed = |error: reqwest::Error| FetchError::Server {
        url: url.to_owned(),
        problem: chain(&error.without_url()),
    };
    let client = reqwest::Client::builder()
        .read_timeout(READ_TIMEOUT)
        .build();
    let response = client.map_err(failed)?.get(url).send().await;
    let response = response.and_then(reqwest::Response::error_for_status);
    let chunks = response.map_err(failed)?.bytes_stream();
    let chunks = chunks.map_err(|error| chain(&error.without_url()));
    let put = blobs.put(Some(sha256), chunks, progress).await;
    manifest_file(name.to_owned(), url, put)
}

/// The messages of an error and of its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Stores the files of a repository on Hugging Face, or on the server in `HF_ENDPOINT`.
async fn files_from_hugging_face(
    source: &HuggingFaceSource,
    format: Option<ModelFormat>,
    blobs: &BlobStore,
    scratch: &Path,
    progress: FetchProgress<'_>,
) -> Result<Vec<ArtifactFile>, FetchError> {
    let failed = |error: ApiError| FetchError::Server {
        url: source.repo.clone(),
        problem: chain(&error),
    };
    let mut builder = ApiBuilder::from_env()
        .with_cache_dir(scratch.to_owned())
        .with_progress(false);
    if let Ok(token) = std::env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    let api = builder.build().map_err(failed)?;
    let (repo, revision) = (source.repo.clone(), source.revision.clone());
    let repo = api.repo(Repo::with_revision(repo, RepoType::Model, revision));
    let names = if source.files.is_empty() {
        let info = repo.info().await.map_err(failed)?;
        let names = info.siblings.into_iter().map(|sibling| sibling.rfilename);
        names.filter(|name| is_needed(name, format)).collect()
    } else {
        source.files.clone()
    };
    let mut files = Vec::new();
    let mut fetched = 0;
    for name in names {
        let path = repo.download(&name).await.map_err(failed)?;
        let put = blobs.put_file(&path, |done| progress(fetched + done)).await;
        files.push(manifest_file(name, &source.repo, put)?);
        fetched += files.last().map_or(0, |file| file.size.0);
    }
    Ok(files)
}

/// Whether a model of this format needs the file `name` of a repository. Repositories often hold
/// weights in other formats too, and one GGUF file for each quantization.
fn is_needed(name: &str, format: Option<ModelFormat>) -> bool {
    if format == Some(ModelFormat::Gguf) {
        return name.ends_with(".gguf");
    }
    let suffixes = [
        ".json",
        ".safetensors",
        ".jinja",
        ".model",
        "merges.txt",
        "vocab.txt",
    ];
    suffixes.iter().any(|suffix| name.ends_with(suffix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_the_format_needs_are_fetched() {
        let names = [
            "config.json",
            "1_Pooling/config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "q4.gguf",
            "README.md",
        ];
        let chosen = |format| -> Vec<&str> {
            names
                .into_iter()
                .filter(|name| is_needed(name, format))
                .collect()
        };
        assert_eq!(chosen(None), names[..3]);
        assert_eq!(chosen(Some(ModelFormat::Gguf)), ["q4.gguf"]);
    }
}
