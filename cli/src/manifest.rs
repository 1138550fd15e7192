//! Resources in files.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flotilla_core::spec::{Resource, Source, parse_yaml};

/// Reads a file, a folder's `*.yaml`, `*.yml` and `*.json` files, or standard input (`-`).
///
/// A relative `spec.source.path` is made absolute from the folder of its file.
///
/// # Errors
/// What cannot be read or is not valid, with the file's name.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Resource>> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        return parse(&text, &std::env::current_dir()?).context("standard input");
    }
    let mut resources = Vec::new();
    for file in files(path)? {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {name}"))?;
        let folder = std::path::absolute(&file)?;
        let folder = folder.parent().unwrap_or(Path::new("/"));
        resources.extend(parse(&text, folder).context(name)?);
    }
    Ok(resources)
}

/// The files meant by `path`, in order of their names.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let name = path.display();
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).with_context(|| format!("cannot read {name}"))?;
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let extension = path.extension().unwrap_or_default();
            path.is_file()
                && ["yaml", "yml", "json"]
                    .iter()
                    .any(|known| extension == *known)
        })
        .collect();
    if files.is_empty() {
        bail!("{name} has no .yaml, .yml or .json file");
    }
    files.sort();
    Ok(files)
}

fn parse(text: &str, folder: &Path) -> anyhow::Result<Vec<Resource>> {
    let mut resources = parse_yaml(text)?;
    for resource in &mut resources {
        let Resource::Model(model) = resource;
        if let Some(Source::Path(path) | Source::ControllerPath(path)) = &mut model.spec.source {
            // Joining keeps a path that is absolute already.
            *path = folder.join(&path);
        }
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str =
        "apiVersion: flotilla/v1\nkind: Model\nmetadata: {name: m}\nspec: {source: {path: m}}";

    #[test]
    fn a_relative_path_counts_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), MODEL).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "nonsense").unwrap();
        let Resource::Model(model) = read(dir.path()).unwrap().remove(0);
        assert_eq!(model.spec.source, Some(Source::Path(dir.path().join("m"))));
    }

    #[test]
    fn what_is_wrong_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        std::fs::write(&file, "kind: Pod").unwrap();
        let error = format!("{:#}", read(&file).unwrap_err());
        assert!(error.contains("a.yaml: "), "{error}");
        let error = format!("{:#}", read(&dir.path().join("b.yaml")).unwrap_err());
        assert!(error.contains("cannot read"), "{error}");
    }
}
