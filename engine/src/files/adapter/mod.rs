//! The files of a LoRA adapter: which there are, whether an engine can compute them on a base model, and their
//! conversion to a GGUF file, the only kind that llama.cpp loads.
//!
//! Start reading at [`AdapterFiles`]. [`architectures`] maps the names of Hugging Face to those of GGUF files,
//! [`base_check`] compares the shapes of an adapter with those of its base, [`conversion`] writes the GGUF file.

mod architectures;
mod base_check;
mod conversion;
mod gguf_adapter;
mod pattern;
mod peft_adapter;
mod peft_config;

use std::fs::File;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use flotilla_core::Bytes;

use self::gguf_adapter::GgufAdapterFile;
use self::peft_adapter::PeftAdapter;
use super::gguf_header::GgufHeader;
use crate::LoadError;

pub(super) const PEFT_CONFIG: &str = "adapter_config.json";
const PEFT_WEIGHTS: &str = "adapter_model.safetensors";
/// What older versions of PEFT write: pickled objects, which can run code when they are read.
const PICKLED_WEIGHTS: &str = "adapter_model.bin";
/// The most entries of a folder that are looked at.
const MAX_ENTRIES: usize = 4_096;

/// The inspected files of a LoRA adapter.
#[derive(Debug)]
pub(crate) enum AdapterFiles {
    /// A GGUF file.
    Gguf(GgufAdapterFile),
    /// A folder as PEFT saves it.
    Peft(PeftAdapter),
}

impl AdapterFiles {
    /// Finds and inspects the adapter at a path: a GGUF file, a folder with one, or a folder of PEFT. The numbers of
    /// its matrices are not read.
    ///
    /// # Errors
    /// What is wrong with the files, or what the adapter does that no engine computes.
    pub(crate) fn find(path: &Path) -> Result<Self, LoadError> {
        if path.is_dir() {
            return Self::find_in(path);
        }
        if !path.is_file() {
            return Err(LoadError::NoSuchPath(path.to_owned()));
        }
        if path.extension().is_none_or(|extension| extension != "gguf") {
            let problem = "its name does not end in .gguf; of an adapter of PEFT, name the folder";
            return Err(not_an_adapter(path, problem));
        }
        GgufAdapterFile::inspect(path).map(Self::Gguf)
    }

    fn find_in(dir: &Path) -> Result<Self, LoadError> {
        if dir.join(PEFT_CONFIG).is_file() && dir.join(PEFT_WEIGHTS).is_file() {
            return PeftAdapter::inspect(dir).map(Self::Peft);
        }
        if let [file] = &gguf_files(dir)?[..] {
            return GgufAdapterFile::inspect(file).map(Self::Gguf);
        }
        let has = |name: &str| dir.join(name).exists();
        let problem = if has(PICKLED_WEIGHTS) && !has(PEFT_WEIGHTS) {
            format!(
                "its {PICKLED_WEIGHTS} is not read, since such a file can run code: load the adapter with PEFT and \
                 save it as {PEFT_WEIGHTS}"
            )
        } else if has("config.json") && !has(PEFT_WEIGHTS) {
            "it is a whole model: serve it without spec.base".to_owned()
        } else if has(PEFT_CONFIG) || has(PEFT_WEIGHTS) {
            format!("it has only one of {PEFT_CONFIG} and {PEFT_WEIGHTS}")
        } else {
            format!("it has neither {PEFT_CONFIG} and {PEFT_WEIGHTS} nor exactly one GGUF file")
        };
        Err(not_an_adapter(dir, &problem))
    }

    /// The memory of the adapter's matrices once they are loaded.
    pub(crate) fn memory(&self) -> Bytes {
        Bytes(match self {
            Self::Gguf(file) => file.bytes,
            Self::Peft(adapter) => adapter.bytes(),
        })
    }

    /// Returns the adapter as a GGUF file for a base model, which is converted if need be. `base` is the headers of
    /// all parts of the base's file.
    ///
    /// # Errors
    /// [`LoadError::OtherBase`] when the adapter does not fit the base, [`LoadError::UnsupportedAdapter`] when
    /// llama.cpp cannot compute it on this base, or what went wrong with the files.
    pub(crate) fn gguf(&self, base: &[GgufHeader]) -> Result<GgufAdapter, LoadError> {
        match self {
            Self::Gguf(file) => {
                file.check(base)?;
                Ok(GgufAdapter::Source(file.path.clone()))
            }
            Self::Peft(adapter) => {
                let file = conversion::convert(adapter, base)?;
                let path = format!("/dev/fd/{}", file.as_raw_fd()).into();
                Ok(GgufAdapter::Converted { path, _file: file })
            }
        }
    }
}

/// A GGUF file with an adapter, which dereferences to its path.
#[derive(Debug)]
pub(crate) enum GgufAdapter {
    /// The file that the adapter came in.
    Source(PathBuf),
    /// A converted file, which is gone when this is dropped.
    Converted {
        /// The path of the open file in this process: it has no other.
        path: PathBuf,
        _file: File,
    },
}

impl Deref for GgufAdapter {
    type Target = Path;

    fn deref(&self) -> &Path {
        match self {
            Self::Source(path) => path,
            Self::Converted { path, .. } => path,
        }
    }
}

/// Lists the GGUF files in a folder.
fn gguf_files(dir: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |error: std::io::Error| LoadError::Damaged {
        path: dir.to_owned(),
        problem: error.to_string(),
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)
        .map_err(unreadable)?
        .take(MAX_ENTRIES)
    {
        let path = entry.map_err(unreadable)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "gguf")
        {
            files.push(path);
        }
    }
    Ok(files)
}

fn not_an_adapter(path: &Path, problem: &str) -> LoadError {
    LoadError::NotAnAdapter {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

fn unsupported(path: &Path, problem: String) -> LoadError {
    LoadError::UnsupportedAdapter {
        path: path.to_owned(),
        problem,
    }
}

fn other_base(path: &Path, problem: String) -> LoadError {
    LoadError::OtherBase {
        path: path.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests;
