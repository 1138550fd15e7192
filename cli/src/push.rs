//! `flotilla model push`.

use std::path::Path;

use anyhow::{Context, bail};
use flotilla_controller::admin::Missing;
use flotilla_controller::artifacts::walk;
use flotilla_core::artifact::{ArtifactFile, Manifest};
use flotilla_core::spec::Sha256Digest;
use flotilla_core::{ArtifactName, Bytes};
use sha2::Digest;

use crate::args::PushArgs;
use crate::client::Fleet;

/// Uploads the files that the fleet does not have, and names all of them.
pub(crate) async fn run(args: PushArgs) -> anyhow::Result<()> {
    let fleet = Fleet::new(&args.endpoint)?;
    let name = match args.name {
        Some(name) => name,
        None => default_name(&args.path)?,
    };
    let shown = args.path.display().to_string();
    let found = walk(&args.path).with_context(|| format!("cannot read {shown}"))?;
    let mut files = Vec::new();
    for (path, file) in &found {
        let (size, sha256) =
            hash(file).with_context(|| format!("cannot read {}", file.display()))?;
        files.push(ArtifactFile {
            path: path.clone(),
            size,
            sha256,
        });
    }
    let manifest = Manifest::new(files).with_context(|| format!("{shown} is no model"))?;
    let path = ["api", "v1", "artifacts", name.as_str()];
    let before: Missing = fleet.put(&path, &manifest).await?;
    for sha256 in &before.missing {
        let file = manifest.files.iter().find(|file| file.sha256 == *sha256);
        let file = file.context("the fleet asks for a file that is none of these")?;
        let (_, local) = found
            .iter()
            .find(|(path, _)| *path == file.path)
            .context("the folder has changed meanwhile")?;
        println!("uploading {} ({})", file.path, file.size);
        let sha256 = sha256.to_string();
        fleet
            .upload(&["api", "v1", "blobs", &sha256], local)
            .await?;
    }
    if !before.missing.is_empty() {
        let after: Missing = fleet.put(&path, &manifest).await?;
        if !after.missing.is_empty() {
            bail!("the fleet has lost files that were uploaded: try again");
        }
    }
    println!(
        "artifact/{name} pushed: {} files, {}, {} of them new",
        manifest.files.len(),
        manifest.size(),
        before.missing.len()
    );
    Ok(())
}

/// The name of the folder, or of the file without its end.
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
    ArtifactName::new(&name).with_context(|| format!("'{name}' is no name: give --name"))
}

fn hash(path: &Path) -> std::io::Result<(Bytes, Sha256Digest)> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = HashWriter(sha2::Sha256::new());
    let size = std::io::copy(&mut file, &mut hash)?;
    Ok((Bytes(size), Sha256Digest(hash.0.finalize().into())))
}

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
