//! Fetching the files of a repository on Hugging Face, or on the server in `HF_ENDPOINT`.

use std::collections::BTreeMap;

use flotilla_core::artifact::{ArtifactFile, is_inside_folder};
use flotilla_core::spec::{HuggingFaceSource, ModelFormat, Sha256Digest};
use hf_hub::{Cache, Repo, RepoType};
use reqwest::Url;
use serde::Deserialize;

use super::blobs::BlobStore;
use super::fetched_file::{FetchError, FetchProgress, check_room, manifest_file};
use super::source_client::SourceClient;

/// The public server.
const ENDPOINT: &str = "https://huggingface.co";

/// The files of a repository, as the server lists them.
#[derive(Deserialize)]
struct RepoFiles {
    siblings: Vec<RepoFile>,
}

/// A file of a repository. Servers other than the public one may list the name alone.
#[derive(Deserialize)]
struct RepoFile {
    rfilename: String,
    size: Option<u64>,
    /// Only large files have it.
    lfs: Option<LargeFile>,
}

#[derive(Deserialize)]
struct LargeFile {
    sha256: Option<String>,
}

impl RepoFile {
    /// Returns the SHA-256 of the content, if the server has listed it.
    fn sha256(&self) -> Option<Sha256Digest> {
        self.lfs.as_ref()?.sha256.as_ref()?.parse().ok()
    }
}

/// Stores the files of a repository, except those that are stored already. Fetches none if they do not
/// all have room.
pub(super) async fn fetch(
    source: &HuggingFaceSource,
    format: Option<ModelFormat>,
    client: &SourceClient,
    blobs: &BlobStore,
    progress: FetchProgress<'_>,
) -> Result<Vec<ArtifactFile>, FetchError> {
    let failed = |problem: String| FetchError::Server {
        url: source.repo.clone(),
        problem,
    };
    let endpoint = std::env::var("HF_ENDPOINT").unwrap_or_else(|_| ENDPOINT.to_owned());
    let endpoint = endpoint.trim_end_matches('/');
    // Otherwise the one that Hugging Face's own tools have stored.
    let token = std::env::var("HF_TOKEN").ok();
    let token = token.or_else(|| Cache::from_env().token());
    let token = token.as_deref();
    let (repo, revision) = (source.repo.clone(), source.revision.clone());
    let repo = Repo::with_revision(repo, RepoType::Model, revision);
    let url = format!("{endpoint}/api/{}?blobs=true", repo.api_url());
    let listed: Result<RepoFiles, _> = client.get_json(&url, token).await;
    let listed = if source.files.is_empty() {
        let mut listed = listed.map_err(failed)?.siblings;
        listed.retain(|file| is_needed(&file.rfilename, format));
        listed
    } else {
        // A server that lists no files may still have them.
        let listed = listed.map_or_else(|_| Vec::new(), |files| files.siblings);
        named_files(&source.files, listed)
    };
    if let Some(file) = listed
        .iter()
        .find(|file| !is_inside_folder(&file.rfilename))
    {
        let name = &file.rfilename;
        return Err(failed(format!(
            "it has the file {name:?}, which is outside of its folder"
        )));
    }
    let mut missing_bytes = 0;
    let mut stored = Vec::new();
    for file in &listed {
        let size = match file.sha256() {
            Some(sha256) => blobs.verified_size(sha256).await.ok().flatten(),
            None => None,
        };
        if size.is_none() {
            missing_bytes += file.size.unwrap_or(0);
        }
        stored.push(size);
    }
    check_room(&source.repo, missing_bytes, blobs).await?;
    let mut files = Vec::new();
    let mut fetched = 0;
    for (file, stored) in listed.into_iter().zip(stored) {
        let put = if let (Some(sha256), Some(size)) = (file.sha256(), stored) {
            Ok((sha256, size))
        } else {
            let (revision, name) = (repo.url_revision(), &file.rfilename);
            let mut url = Url::parse(&format!("{endpoint}/{}/resolve/{revision}", repo.url()))
                .map_err(|error| failed(error.to_string()))?;
            // Each part is escaped: a name may have characters that end a path.
            if let Ok(mut path) = url.path_segments_mut() {
                path.extend(name.split('/'));
            }
            let (size, chunks) = client.download(url.as_str(), token).await.map_err(failed)?;
            check_room(&source.repo, size.unwrap_or(0), blobs).await?;
            blobs
                .put(None, chunks, |done| progress(fetched + done))
                .await
        };
        files.push(manifest_file(file.rfilename, &source.repo, put)?);
        fetched += files.last().map_or(0, |file| file.size.0);
        progress(fetched);
    }
    Ok(files)
}

/// Returns the files with these names, with what the server has listed of them.
fn named_files(names: &[String], listed: Vec<RepoFile>) -> Vec<RepoFile> {
    let mut listed: BTreeMap<_, _> = listed
        .into_iter()
        .map(|file| (file.rfilename.clone(), file))
        .collect();
    let named = names.iter().map(|name| {
        listed.remove(name).unwrap_or_else(|| RepoFile {
            rfilename: name.clone(),
            size: None,
            lfs: None,
        })
    });
    named.collect()
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
