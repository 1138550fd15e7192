//! The files of a model: which there are, what their headers say, and whether they are complete.

// Without llama.cpp adapters are found and checked, and never loaded.
#[cfg_attr(not(feature = "llama"), allow(dead_code))]
pub(crate) mod adapter;
pub(crate) mod file_defaults;
pub(crate) mod gguf_header;
pub(crate) mod gguf_reader;
pub(crate) mod inspection;
pub(crate) mod missing_tensors;
pub(crate) mod model_files;
pub(crate) mod model_shape;
pub(crate) mod safetensors_header;

use std::path::Path;

use self::adapter::AdapterFiles;
use self::inspection::Inspection;
use self::model_files::ModelFiles;
use crate::LoadError;

/// Checks that the files at a path can be a model or an adapter: that a folder or GGUF file is complete, and no
/// file is something else. Whether an engine computes its architecture is not checked.
///
/// # Errors
/// What is wrong with a file.
pub fn check_model_files(path: &Path) -> Result<(), LoadError> {
    if path.join(adapter::PEFT_CONFIG).is_file() && !path.join("config.json").is_file() {
        return AdapterFiles::find(path).map(drop);
    }
    let files = ModelFiles::find(path)?;
    Inspection::of(&files).map(drop)
}
