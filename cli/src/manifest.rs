//! Resources in YAML and JSON files.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flotilla_core::spec::{ModelSource, Resource, parse_documents};
use serde::Deserialize;
use serde_json::Value;

use crate::other_documents;

/// A resource with the document that it was read from.
#[derive(Debug)]
pub(crate) struct ResourceDocument {
    pub(crate) resource: Resource,
    /// The document as the user wrote it, with its paths and examples resolved.
    pub(crate) document: Value,
}

/// Reads the resources of several files, in order; see [`read`].
///
/// # Errors
/// Those of [`read`], and an error if there are files and none has a resource.
pub(crate) fn read_all(paths: &[PathBuf]) -> anyhow::Result<Vec<ResourceDocument>> {
    let mut resources = Vec::new();
    for path in paths {
        resources.extend(read(path)?);
    }
    if resources.is_empty() && !paths.is_empty() {
        let names = paths.iter().map(|path| match path.to_str() {
            Some("-") => "standard input".to_owned(),
            _ => path.display().to_string(),
        });
        let names = names.collect::<Vec<_>>().join(", ");
        bail!("there are no resources in {names}");
    }
    Ok(resources)
}

/// Reads resources from a file, from the `*.yaml`, `*.yml` and `*.json` files of a folder, or from
/// standard input (`-`).
///
/// Relative paths in `spec.source.path` and `spec.examplesFrom` are relative to the folder of their
/// file. `spec.source.path` is made absolute, and the examples in the file of `spec.examplesFrom`
/// are inserted into `spec.examples`.
///
/// # Errors
/// Returns an error with the file's name if a file cannot be read or a resource is not valid.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<ResourceDocument>> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        return parse(&text, &std::env::current_dir()?).context("standard input");
    }
    let mut resources = Vec::new();
    for file in list_files(path)? {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {name}"))?;
        let folder = std::path::absolute(&file)?;
        let folder = folder.parent().unwrap_or(Path::new("/"));
        resources.extend(parse(&text, folder).context(name)?);
    }
    Ok(resources)
}

/// Returns `path` itself if it is a file, and the resource files in it, sorted by name, if it is a
/// folder.
fn list_files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
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
                    .any(|supported| extension == *supported)
        })
        .collect();
    if files.is_empty() {
        bail!("{name} contains no .yaml, .yml or .json file");
    }
    files.sort();
    Ok(files)
}

fn parse(text: &str, folder: &Path) -> anyhow::Result<Vec<ResourceDocument>> {
    let mut resources = Vec::new();
    for mut document in parse_documents(text)? {
        if let Some(explanation) = other_documents::explanation(&document) {
            bail!("{explanation}");
        }
        include_examples(&mut document, folder)?;
        let mut resource = Resource::from_json(document.clone())?;
        if let Resource::Model(model) = &mut resource
            && let Some(ModelSource::Path(path) | ModelSource::ControllerPath(path)) =
                &mut model.spec.source
        {
            // `join` returns an absolute path unchanged.
            *path = folder.join(&path);
            let source = serde_json::to_value(&model.spec.source)?;
            if let Some(written) = document.pointer_mut("/spec/source") {
                *written = source;
            }
        }
        resources.push(ResourceDocument { resource, document });
    }
    Ok(resources)
}

/// A line of a file of examples. Other fields, such as labels, are ignored.
#[derive(Deserialize)]
struct ExampleLine {
    text: String,
}

/// Replaces `spec.examplesFrom` by the examples in the file it names, after those in
/// `spec.examples`.
fn include_examples(resource: &mut Value, folder: &Path) -> anyhow::Result<()> {
    let Some(spec) = resource.get_mut("spec").and_then(Value::as_object_mut) else {
        return Ok(());
    };
    let Some(file) = spec.remove("examplesFrom") else {
        return Ok(());
    };
    let file = file.as_str().context("spec.examplesFrom must be a path")?;
    let file = folder.join(file);
    let name = file.display();
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("spec.examplesFrom: cannot read {name}"))?;
    let mut examples = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let example: ExampleLine = serde_json::from_str(line)
            .with_context(|| format!("{name}:{number} is not of the form {{\"text\": \"…\"}}"))?;
        examples.push(Value::String(example.text));
    }
    let list = spec
        .entry("examples")
        .or_insert_with(|| Value::Array(Vec::new()));
    // Any other type is reported when the resource is parsed.
    if let Value::Array(list) = list {
        list.extend(examples);
    }
    Ok(())
}

/// Returns the noun for a resource's kind in messages, and the resource's path in the API.
pub(crate) fn noun_and_path(resource: &Resource) -> (&'static str, [&str; 4]) {
    let (noun, collection) = match resource {
        Resource::Model(_) => ("model", "models"),
        Resource::Task(_) => ("task", "tasks"),
        Resource::Router(_) => ("router", "routers"),
    };
    (noun, ["api", "v1", collection, resource.name()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str =
        "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {name: m}\nspec: {source: {path: m}}";

    #[test]
    fn relative_source_path_is_relative_to_its_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), MODEL).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "nonsense").unwrap();
        let read = read(dir.path()).unwrap().remove(0);
        let path = dir.path().join("m");
        assert_eq!(
            read.document["spec"]["source"]["path"],
            path.to_str().unwrap()
        );
        let Resource::Model(model) = read.resource else {
            panic!("not a model");
        };
        assert_eq!(
            model.spec.source,
            Some(ModelSource::Path(dir.path().join("m")))
        );
    }

    #[test]
    fn examples_from_a_file_follow_those_in_the_spec() {
        let dir = tempfile::tempdir().unwrap();
        let task = "apiVersion: flotilla.dev/v1\nkind: Task\nmetadata: {name: t}\n\
            spec: {models: [m], examples: [one], examplesFrom: more.jsonl}";
        let file = dir.path().join("t.yaml");
        std::fs::write(&file, task).unwrap();
        let lines = "{\"text\": \"two\", \"label\": 7}\n\n{\"text\": \"three\"}\n";
        std::fs::write(dir.path().join("more.jsonl"), lines).unwrap();
        let Resource::Task(task) = read(&file).unwrap().remove(0).resource else {
            panic!("not a task");
        };
        assert_eq!(task.spec.examples, ["one", "two", "three"]);
        std::fs::write(dir.path().join("more.jsonl"), "{\"text\": 1}").unwrap();
        let error = format!("{:#}", read(&file).unwrap_err());
        assert!(error.contains("more.jsonl:1 is not of the form"), "{error}");
    }

    #[test]
    fn error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        std::fs::write(&file, "kind: Pod").unwrap();
        let error = format!("{:#}", read(&file).unwrap_err());
        assert!(error.contains("a.yaml: "), "{error}");
        let error = format!("{:#}", read(&dir.path().join("b.yaml")).unwrap_err());
        assert!(error.contains("cannot read"), "{error}");
    }
}
