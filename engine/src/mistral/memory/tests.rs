use super::*;
use crate::mistral::safetensors_header::Tensor;
use flotilla_core::spec::ModelSource;
use safetensors::tensor::Dtype;
use std::path::Path;

fn spec(path: &Path) -> ModelSpec {
    ModelSpec {
        source: Some(ModelSource::Path(path.to_owned())),
        ..ModelSpec::default()
    }
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

#[test]
fn quantisation_on_the_fly_counts_with_its_own_bits() {
    let tensor = |name: &str, dimensions| Tensor {
        name: name.into(),
        elements: 1_000,
        dtype: Dtype::F16,
        dimensions,
    };
    let inspection = Inspection::Folder {
        config: serde_json::json!({}),
        tensors: vec![
            tensor("model.layers.0.mlp.weight", 2),
            tensor("model.layers.0.norm.weight", 1),
            tensor("model.embed_tokens.weight", 2),
        ],
    };
    let weights = |isq| weights(&inspection, ModelDType::F32, isq);
    assert_eq!(weights(None), 12_000);
    assert_eq!(weights(Some(IsqType::Q8_0)), 8_000 + 1_062);
    assert_eq!(weights(Some(IsqType::Q4K)), 8_000 + 562);
}
