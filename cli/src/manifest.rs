//! Resources in files.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flotilla_core::spec::{ModelSource, Resource, documents};
use serde::Deserialize;
use serde_json::Value;

/// Reads a file, a folder's `*.yaml`, `*.yml` and `*.json` files, or standard input (`-`).
///
/// A relative `spec.source.path` is made absolute from the folder of its file, and the examples
/// that `spec.examplesFrom` names are read from there.
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
    let mut resources = Vec::new();
    for mut value in documents(text)? {
        include_examples(&mut value, folder)?;
        let mut resource = Resource::from_json(value)?;
        if let Resource::Model(model) = &mut resource
            && let Some(ModelSource::Path(path) | ModelSource::ControllerPath(path)) =
                &mut model.spec.source
        {
            // Joining keeps a path that is absolute already.
            *path = folder.join(&path);
        }
        resources.push(resource);
    }
    Ok(resources)
}

/// A line of a file of examples. What else is in it, such as labels, is for others.
#[derive(Deserialize)]
struct Example {
    text: String,
}

/// Puts the examples of the file that `spec.examplesFrom` names after those that are there.
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
        let example: Example = serde_json::from_str(line)
            .with_context(|| format!("{name}:{number} is not like {{\"text\": \"…\"}}"))?;
        examples.push(Value::String(example.text));
    }
    let known = spec
        .entry("examples")
        .or_insert_with(|| Value::Array(Vec::new()));
    // What else it may be is told when the resource is read.
    if let Value::Array(known) = known {
        known.extend(examples);
    }
    Ok(())
}

/// What a resource is called in messages, and where it is in the API.
pub(crate) fn place(resource: &Resource) -> (&'static str, [&str; 4]) {
    let (word, kind) = match resource {
        Resource::Model(_) => ("model", "models"),
        Resource::Task(_) => ("task", "tasks"),
        Resource::Router(_) => ("router", "routers"),
    };
    (word, ["api", "v1", kind, resource.name()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: &str =
        "apiVersion: flotilla.dev/v1\nkind: Model\nmetadata: {name: m}\nspec: {source: {path: m}}";

    #[test]
    fn a_relative_path_counts_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), MODEL).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "nonsense").unwrap();
        let Resource::Model(model) = read(dir.path()).unwrap().remove(0) else {
            panic!("not a model");
        };
        assert_eq!(
            model.spec.source,
            Some(ModelSource::Path(dir.path().join("m")))
        );
    }

    #[test]
    fn examples_come_from_a_file_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let task = "apiVersion: flotilla.dev/v1\nkind: Task\nmetadata: {name: t}\n\
            spec: {models: [m], examples: [one], examplesFrom: more.jsonl}";
        let file = dir.path().join("t.yaml");
        std::fs::write(&file, task).unwrap();
        let lines = "{\"text\": \"two\", \"label\": 7}\n\n{\"text\": \"three\"}\n";
        std::fs::write(dir.path().join("more.jsonl"), lines).unwrap();
        let Resource::Task(task) = read(&file).unwrap().remove(0) else {
            panic!("not a task");
        };
        assert_eq!(task.spec.examples, ["one", "two", "three"]);
        std::fs::write(dir.path().join("more.jsonl"), "{\"text\": 1}").unwrap();
        let error = format!("{:#}", read(&file).unwrap_err());
        assert!(error.contains("more.jsonl:1 is not like"), "{error}");
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
