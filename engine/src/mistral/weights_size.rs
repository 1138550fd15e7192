//! Estimates the memory of a model from its files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use flotilla_core::Bytes;
use flotilla_core::artifact::memory_of_weights;
use flotilla_core::spec::ModelSpec;
use mistralrs::ModelDType;
use safetensors::tensor::Metadata;

use super::load_plan::LoadPlan;
use super::model_files::ModelFiles;
use crate::LoadError;

/// The format's own limit for the length of a safetensors header, in bytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Estimates the memory of a model: what the spec says, or else the weights in the number format in which
/// they are computed, plus an overhead. See [`Engine::estimate`](crate::Engine::estimate).
pub(super) async fn estimate(spec: &ModelSpec) -> Result<Bytes, LoadError> {
    if let Some(memory) = spec.memory {
        return Ok(memory);
    }
    let plan = LoadPlan::new(spec)?;
    let weights = tokio::task::spawn_blocking(move || weights_bytes(&plan))
        .await
        .map_err(|e| LoadError::Engine(e.to_string()))??;
    Ok(memory_of_weights(weights))
}

/// Returns the size of the weights once they are loaded, in bytes.
fn weights_bytes(plan: &LoadPlan) -> Result<u64, LoadError> {
    let unusable = |path: &Path, problem: String| LoadError::Unusable {
        path: path.to_owned(),
        problem,
    };
    match &plan.files {
        ModelFiles::Gguf { dir, file } => {
            let path = dir.join(file);
            let metadata = std::fs::metadata(&path).map_err(|e| unusable(&path, e.to_string()))?;
            Ok(metadata.len())
        }
        ModelFiles::Folder(dir) => {
            let entries = std::fs::read_dir(dir).map_err(|e| unusable(dir, e.to_string()))?;
            let mut parameters = 0;
            for entry in entries.flatten() {
                let path = entry.path();
                if path
                    .extension()
                    .is_some_and(|extension| extension == "safetensors")
                {
                    parameters +=
                        count_parameters(&path).map_err(|e| unusable(&path, e.to_string()))?;
                }
            }
            if parameters == 0 {
                return Err(unusable(dir, "it has no weights in *.safetensors".into()));
            }
            let bytes_per_parameter = match plan.dtype {
                ModelDType::F32 => 4,
                _ => 2,
            };
            Ok(parameters * bytes_per_parameter)
        }
    }
}

/// Returns the number of parameters in a safetensors file, from its header.
///
/// `SafeTensors::read_metadata` would need the whole file in memory: it compares the header with the
/// length of the data. Only the header is read here; `Metadata` parses and validates it.
fn count_parameters(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Err(io::Error::other("it has no safetensors header"));
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header)?;
    let tensors = metadata.tensors();
    let sizes = tensors
        .values()
        .map(|tensor| tensor.shape.iter().product::<usize>());
    Ok(sizes.sum::<usize>() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::ModelSource;

    fn spec(path: &Path) -> ModelSpec {
        ModelSpec {
            source: Some(ModelSource::Path(path.to_owned())),
            ..ModelSpec::default()
        }
    }

    #[tokio::test]
    async fn memory_is_estimated_from_the_shapes() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json"] {
            std::fs::write(dir.path().join(file), "{}").unwrap();
        }
        let header = r#"{
            "__metadata__": {"format": "pt"},
            "w": {"dtype": "F16", "shape": [1000, 10], "data_offsets": [0, 20000]}
        }"#;
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        let bytes = estimate(&spec(dir.path())).await.unwrap();
        assert_eq!(bytes, Bytes(48_000));
    }

    #[tokio::test]
    async fn each_wrong_path_has_its_own_error() {
        let dir = tempfile::tempdir().unwrap();
        let missing = estimate(&spec(&dir.path().join("x"))).await;
        assert!(matches!(missing, Err(LoadError::NoSuchPath(_))));
        let empty = estimate(&spec(dir.path())).await;
        assert!(matches!(empty, Err(LoadError::Unusable { .. })));
        let file = dir.path().join("x.bin");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(
            estimate(&spec(&file)).await,
            Err(LoadError::Unusable { .. })
        ));
    }
}
