//! Fetching a model's files from where its spec says they are.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_core::Bytes;
use flotilla_core::artifact::{ArtifactFile, Manifest};
use flotilla_core::spec::{HuggingFaceSource, ModelFormat, ModelSource, Sha256Digest};
use futures::TryStreamExt;
use hf_hub::api::tokio::{ApiBuilder, ApiError};
use hf_hub::{Repo, RepoType};

use super::blobs::{BlobError, BlobStore};

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Why files were not fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0} does not exist on the controller that leads")]
    NoSuchPath(PathBuf),
    #[error("{path} cannot be read: {problem}")]
    Unreadable { path: PathBuf, problem: String },
    #[error("{url} cannot be fetched: {problem}")]
    Server { url: String, problem: String },
    #[error("{url}: {problem}")]
    File { url: String, problem: BlobError },
    #[error("it has none of the files that a model needs")]
    NoFiles,
    #[error("nothing was pushed under this name")]
    NotPushed,
}

impl FetchError {
    /// What to do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Self::NoSuchPath(_) | Self::Unreadable { .. } => {
                "put the files there, or correct spec.source.controllerPath"
            }
            Self::Server { .. } => {
                "check the address, the network, and HF_TOKEN for what is not public"
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
            Self::NotPushed => "run: flotilla model push DIR --name NAME",
        }
    }
}

/// Told how many bytes have come.
pub(super) type FetchProgress<'a> = &'a (dyn Fn(u64) + Send + Sync);

/// Fetches all files of `source` into `blobs`. `scratch` is a folder for what is on its way.
pub(super) async fn fetch(
    source: &ModelSource,
    format: Option<ModelFormat>,
    blobs: &BlobStore,
    scratch: &Path,
    progress: FetchProgress<'_>,
) -> Result<Manifest, FetchError> {
    let files = match source {
        ModelSource::ControllerPath(path) => folder(path, blobs, progress).await?,
        ModelSource::Url { url, sha256 } => vec![one(url, *sha256, blobs, progress).await?],
        ModelSource::HuggingFace(source) => {
            hugging_face(source, format, blobs, scratch, progress).await?
        }
        ModelSource::Artifact(_) => return Err(FetchError::NotPushed),
        ModelSource::Path(_) => Vec::new(),
    };
    Manifest::new(files).map_err(|_| FetchError::NoFiles)
}

/// A folder of this machine, or one file.
async fn folder(
    path: &Path,
    blobs: &BlobStore,
    progress: FetchProgress<'_>,
) -> Result<Vec<ArtifactFile>, FetchError> {
    let root = path.to_owned();
    let found = tokio::task::spawn_blocking(move || super::walk(&root)).await;
    let unreadable = |problem: String| FetchError::Unreadable {
        path: path.to_owned(),
        problem,
    };
    let found = match found.map_err(|e| unreadable(e.to_string()))? {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(FetchError::NoSuchPath(path.to_owned()));
        }
        Err(error) => return Err(unreadable(error.to_string())),
    };
    let mut files = Vec::new();
    let mut before = 0;
    for (name, file) in found {
        let put = blobs.put_file(&file, |done| progress(before + done)).await;
        files.push(named(name, &file.display().to_string(), put)?);
        before += files.last().map_or(0, |file| file.size.0);
    }
    Ok(files)
}

fn named(
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

/// One file from any server.
async fn one(
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
        return named(name.to_owned(), url, Ok((sha256, size)));
    }
    let failed = |error: reqwest::Error| FetchError::Server {
        url: url.to_owned(),
        problem: chain(&error.without_url()),
    };
    let client = reqwest::Client::builder().read_timeout(SILENCE).build();
    let response = client.map_err(failed)?.get(url).send().await;
    let response = response.and_then(reqwest::Response::error_for_status);
    let pieces = response.map_err(failed)?.bytes_stream();
    let pieces = pieces.map_err(|error| chain(&error.without_url()));
    let put = blobs.put(Some(sha256), pieces, progress).await;
    named(name.to_owned(), url, put)
}

/// An error with all that caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// A repository of Hugging Face, or of what `HF_ENDPOINT` says.
async fn hugging_face(
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
    let wanted = if source.files.is_empty() {
        let info = repo.info().await.map_err(failed)?;
        let names = info.siblings.into_iter().map(|sibling| sibling.rfilename);
        names.filter(|name| belongs(name, format)).collect()
    } else {
        source.files.clone()
    };
    let mut files = Vec::new();
    let mut before = 0;
    for name in wanted {
        let path = repo.download(&name).await.map_err(failed)?;
        let put = blobs.put_file(&path, |done| progress(before + done)).await;
        files.push(named(name, &source.repo, put)?);
        before += files.last().map_or(0, |file| file.size.0);
    }
    Ok(files)
}

/// Whether a model of this format needs a file of this name. Weights of other formats, which
/// many repositories carry too, are left there; so is GGUF, of which a repository often has
/// one file for each quantisation, unless it is asked for.
fn belongs(name: &str, format: Option<ModelFormat>) -> bool {
    if format == Some(ModelFormat::Gguf) {
        return name.ends_with(".gguf");
    }
    let ends = [
        ".json",
        ".safetensors",
        ".jinja",
        ".model",
        "merges.txt",
        "vocab.txt",
    ];
    ends.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_format_needs_is_fetched() {
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
                .filter(|name| belongs(name, format))
                .collect()
        };
        assert_eq!(chosen(None), names[..3]);
        assert_eq!(chosen(Some(ModelFormat::Gguf)), ["q4.gguf"]);
    }
}
