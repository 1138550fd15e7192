//! Looks at a model's files before they are loaded: whether they are what they should be, and what the model
//! is like.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::error::Category;
use tokenizers::Tokenizer;

use super::gguf_header::GgufHeader;
use super::missing_tensors::missing_tensors;
use super::model_files::ModelFiles;
use super::safetensors_header::{Tensor, read_tensors, weight_files};
use crate::LoadError;

/// The most bytes of a configuration that are read; usual ones have a few thousand.
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// How many names of missing tensors an error has.
const MAX_NAMES: usize = 3;

/// What the files of a model say about it.
#[derive(Debug)]
pub(crate) enum Inspection {
    /// A Hugging Face folder.
    Folder {
        /// `config.json`.
        config: Value,
        tensors: Vec<Tensor>,
    },
    /// A GGUF file: the headers of its parts, the first one with the metadata.
    Gguf(Vec<GgufHeader>),
}

impl Inspection {
    /// Inspects the files of a model.
    ///
    /// # Errors
    /// What is wrong with a file, and what to do about it.
    pub(crate) fn of(files: &ModelFiles) -> Result<Self, LoadError> {
        match files {
            ModelFiles::Folder(dir) => inspect_folder(dir),
            ModelFiles::Gguf { dir, files } => {
                let headers = files.iter().map(|file| inspect_gguf(&dir.join(file)));
                headers.collect::<Result<_, _>>().map(Self::Gguf)
            }
        }
    }
}

/// Explains why the engine could not load a model, where its files tell more than the engine: it names neither
/// the tokenizer nor what is wrong with it.
pub(crate) fn explain(files: &ModelFiles, problem: String) -> LoadError {
    if let ModelFiles::Folder(dir) = files {
        let path = dir.join("tokenizer.json");
        if let Err(error) = Tokenizer::from_file(&path) {
            return LoadError::Tokenizer {
                path,
                problem: error.to_string(),
            };
        }
    }
    LoadError::Engine(problem)
}

fn inspect_folder(dir: &Path) -> Result<Inspection, LoadError> {
    let config = read_config(&dir.join("config.json"))?;
    let tokenizer = dir.join("tokenizer.json");
    check_is_data(&tokenizer)?;
    let template = dir.join("tokenizer_config.json");
    if template.is_file() {
        read_config(&template)?;
    }
    let unreadable = |error: io::Error| damaged(dir, &error.to_string());
    let mut tensors = Vec::new();
    for file in weight_files(dir).map_err(unreadable)? {
        check_is_data(&file)?;
        let read = read_tensors(&file).map_err(|error| damaged(&file, &describe(&error)))?;
        tensors.extend(read);
    }
    if tensors.is_empty() {
        return Err(LoadError::Unusable {
            path: dir.to_owned(),
            problem: "it has no weights in *.safetensors".into(),
        });
    }
    let names: BTreeSet<String> = tensors.iter().map(|tensor| tensor.name.clone()).collect();
    let missing = missing_tensors(&config, &names);
    if !missing.is_empty() {
        let count = missing.len();
        let names = missing[..count.min(MAX_NAMES)].join(", ");
        let more = if count > MAX_NAMES { ", ..." } else { "" };
        let problem = format!("its weights lack {count} tensors: {names}{more}");
        return Err(damaged(dir, &problem));
    }
    Ok(Inspection::Folder { config, tensors })
}

/// Reads the header of a GGUF file.
///
/// # Errors
/// When the file is something else or incomplete.
pub(super) fn inspect_gguf(path: &Path) -> Result<GgufHeader, LoadError> {
    check_is_data(path)?;
    let header = GgufHeader::read(path).map_err(|error| damaged(path, &describe(&error)))?;
    let bytes = std::fs::metadata(path).map(|metadata| metadata.len());
    let bytes = bytes.map_err(|error| damaged(path, &error.to_string()))?;
    match header.file_bytes() {
        Some(expected) if bytes < expected => {
            let problem =
                format!("it has {bytes} bytes of {expected}: it was not copied completely");
            Err(damaged(path, &problem))
        }
        _ => Ok(header),
    }
}

fn read_config(path: &Path) -> Result<Value, LoadError> {
    read_json(path)
}

/// Reads a configuration.
///
/// # Errors
/// When the file cannot be read or has not the fields of a `T`.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    check_is_data(path)?;
    let mut text = Vec::new();
    let file = File::open(path);
    let read = file.and_then(|file| file.take(MAX_CONFIG_BYTES).read_to_end(&mut text));
    read.map_err(|error| damaged(path, &error.to_string()))?;
    let parsed = serde_json::from_slice(&text);
    parsed.map_err(|error| match error.classify() {
        Category::Data => damaged(path, &error.to_string()),
        _ => damaged(path, &format!("it is no JSON: {error}")),
    })
}

/// Refuses what was saved in a file's place: nothing, a web page, or a pointer of Git LFS.
pub(super) fn check_is_data(path: &Path) -> Result<(), LoadError> {
    let mut beginning = Vec::new();
    let file = File::open(path);
    let read = file.and_then(|file| file.take(256).read_to_end(&mut beginning));
    read.map_err(|error| damaged(path, &error.to_string()))?;
    let begins = |start: &str| {
        let text = beginning.trim_ascii_start().get(..start.len());
        text.is_some_and(|text| text.eq_ignore_ascii_case(start.as_bytes()))
    };
    let problem = if beginning.is_empty() {
        "it is empty"
    } else if begins("version https://git-lfs") {
        "it is a pointer of Git LFS, not the file itself"
    } else if ["<!doctype", "<html", "<?xml"]
        .iter()
        .any(|start| begins(start))
    {
        "it is a web page"
    } else {
        return Ok(());
    };
    Err(LoadError::NotTheFile {
        path: path.to_owned(),
        problem: problem.to_owned(),
    })
}

pub(super) fn damaged(path: &Path, problem: &str) -> LoadError {
    LoadError::Damaged {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

/// Says of an end that comes too early what it means.
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it ends inside its header".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
