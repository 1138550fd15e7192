//! Fetching the files of a repository on Hugging Face, or on the server in `HF_ENDPOINT`.

use flotilla_core::artifact::ArtifactFile;
use flotilla_core::spec::{HuggingFaceSource, ModelFormat};
use hf_hub::api::RepoInfo;
use hf_hub::{Cache, Repo, RepoType};

use super::blobs::BlobStore;
use super::fetched_file::{FetchError, FetchProgress, manifest_file};
use super::source_client::SourceClient;

/// The public server.
const ENDPOINT: &str = "https://huggingface.co";

/// Stores the files of a repository.
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
    let names = if source.files.is_empty() {
        let url = format!("{endpoint}/api/{}", repo.api_url());
        let info: RepoInfo = client.get_json(&url, token).await.map_err(failed)?;
        let names = info.siblings.into_iter().map(|sibling| sibling.rfilename);
        names.filter(|name| is_needed(name, format)).collect()
    } else {
        source.files.clone()
    };
    let mut files = Vec::new();
    let mut fetched = 0;
    for name in names {
        let revision = repo.url_revision();
        let url = format!("{endpoint}/{}/resolve/{revision}/{name}", repo.url());
        let chunks = client.download(&url, token).await.map_err(failed)?;
        let put = blobs
            .put(None, chunks, |done| progress(fetched + done))
            .await;
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
