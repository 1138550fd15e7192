//! `flotilla model push`: uploads a model's files as an artifact.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use flotilla_controller::admin::MissingFiles;
use flotilla_controller::artifacts::walk;
use flotilla_core::artifact::{ArtifactFile, Manifest, gguf_parts};
use flotilla_core::spec::Sha256Digest;
use flotilla_core::{ArtifactName, Bytes};
use flotilla_engine::check_model_files;
use sha2::Digest;

use crate::args::PushArgs;
use crate::client::FleetClient;
use crate::resource_text::counted;

/// Uploads the files that the fleet does not have yet, then creates or changes the artifact.
pub(crate) async fn run(args: PushArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let folder = args.path.display().to_string();
    let local_files = model_files(&args.path).with_context(|| format!("cannot read {folder}"))?;
    let name = match args.name {
        Some(name) => name,
        None => default_name(&args.path)?,
    };
    check(&args.path, &local_files)?;
    let mut files = Vec::new();
    for (path, file) in &local_files {
        let (size, sha256) =
            hash_file(file).with_context(|| format!("cannot read {}", file.display()))?;
        files.push(ArtifactFile {
            path: path.clone(),
            size,
            sha256,
        });
    }
    let manifest = Manifest::new(files).with_context(|| format!("{folder} is not a model"))?;
    let path = ["api", "v1", "artifacts", name.as_str()];
    let response: MissingFiles = fleet.put(&path, &manifest).await?;
    let missing = response.missing;
    for sha256 in &missing {
        let file = manifest.files.iter().find(|file| file.sha256 == *sha256);
        let file = file.context("the fleet requests a file that is not part of the model")?;
        let (_, local_file) = local_files
            .iter()
            .find(|(path, _)| *path == file.path)
            .context("the folder changed during the upload; run the command again")?;
        println!("uploading {} ({})", file.path, file.size);
        let sha256 = sha256.to_string();
        fleet
            .put_file(&["api", "v1", "blobs", &sha256], local_file)
            .await?;
    }
    if !missing.is_empty() {
        let response: MissingFiles = fleet.put(&path, &manifest).await?;
        if !response.missing.is_empty() {
            bail!("the fleet lost uploaded files; run the command again");
        }
    }
    println!(
        "artifact/{name} pushed: {}, {}, {} of them new",
        counted(manifest.files.len(), "file"),
        manifest.size(),
        missing.len()
    );
    Ok(())
}

/// The files of a model with their paths in it: those of a folder, or all parts of a GGUF file.
fn model_files(path: &Path) -> anyhow::Result<Vec<(String, PathBuf)>> {
    if !path.try_exists()? {
        bail!("it does not exist; give a Hugging Face folder or a GGUF file");
    }
    if path.is_dir() {
        return Ok(walk(path)?);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut files = Vec::new();
    for part in gguf_parts(&name) {
        files.extend(walk(&path.with_file_name(part))?);
    }
    Ok(files)
}

/// Refuses files that cannot be a model or an adapter: nodes would fetch them in vain.
fn check(path: &Path, files: &[(String, PathBuf)]) -> anyhow::Result<()> {
    // Nodes load the first GGUF file of a folder that has one.
    let gguf = files.iter().find(|(name, _)| name.ends_with(".gguf"));
    let loaded = gguf.map_or(path, |(_, file)| file.as_path());
    check_model_files(loaded).map_err(|error| anyhow!("{error}; {}", error.remedy()))
}

/// Returns the name of the folder, or of the file without its extension.
fn default_name(path: &Path) -> anyhow::Result<ArtifactName> {
    let full = path
        .canonicalize()
        .with_context(|| format!("cannot read {}", path.display()))?;
    let name = if full.is_dir() {
        full.file_name()
    } else {
        full.file_stem()
    };
    let name = name.unwrap_or_default().to_string_lossy().to_lowercase();
    ArtifactName::new(&name)
        .with_context(|| format!("'{name}' is not a valid name; set one with --name"))
}

/// Returns the size and the SHA-256 digest of a file.
fn hash_file(path: &Path) -> std::io::Result<(Bytes, Sha256Digest)> {
    let mut file = std::fs::File::open(path)?;
    let mut writer = HashWriter(sha2::Sha256::new());
    let size = std::io::copy(&mut file, &mut writer)?;
    Ok((Bytes(size), Sha256Digest(writer.0.finalize().into())))
}

/// A writer that hashes what is written to it.
struct HashWriter(sha2::Sha256);

impl std::io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push_check(dir: &Path) -> anyhow::Result<()> {
        check(dir, &model_files(dir)?)
    }

    #[test]
    fn files_that_cannot_be_a_model_are_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = push_check(&dir.path().join("absent")).unwrap_err();
        assert!(error.to_string().contains("does not exist"), "{error}");
        std::fs::write(dir.path().join("notes.txt"), "no model").unwrap();
        let error = push_check(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("it has no config.json; give a Hugging Face folder"),
            "{error}"
        );
        std::fs::write(dir.path().join("m.gguf"), "<!DOCTYPE html>").unwrap();
        let error = push_check(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("m.gguf cannot be served: it is a web page; fetch"),
            "{error}"
        );
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/numbers");
        assert!(push_check(&demo).is_ok());
    }

    #[test]
    fn folder_of_an_adapter_is_pushed_once_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| std::fs::write(dir.path().join(name), content);
        let config = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 2}"#;
        write("adapter_config.json", config.as_bytes()).unwrap();
        let error = push_check(dir.path()).unwrap_err().to_string();
        assert!(error.contains("adapter_model.safetensors"), "{error}");
        let module = "base_model.model.model.layers.0.self_attn.q_proj";
        let header = format!(
            "{{\"{module}.lora_A.weight\":{{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]}},\
             \"{module}.lora_B.weight\":{{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[8,16]}}}}"
        );
        let mut weights = (header.len() as u64).to_le_bytes().to_vec();
        weights.extend(header.as_bytes());
        weights.extend([0; 16]);
        write("adapter_model.safetensors", &weights).unwrap();
        push_check(dir.path()).unwrap();
    }

    #[test]
    fn any_part_of_a_split_file_pushes_all_parts() {
        let dir = tempfile::tempdir().unwrap();
        let parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"];
        for part in parts {
            std::fs::write(dir.path().join(part), "").unwrap();
        }
        let files = model_files(&dir.path().join(parts[0])).unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, parts);
    }
}
