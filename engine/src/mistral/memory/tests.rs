use super::*;
use crate::files::gguf_header::GgufHeader;
use flotilla_core::spec::ModelSource;
use safetensors::tensor::Dtype;
use serde_json::json;
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
    let reading = FileReading::default();
    let estimate = async |path: &Path| estimate(&reading, &spec(path)).await;
    let missing = estimate(&dir.path().join("x")).await;
    assert!(matches!(missing, Err(LoadError::NoSuchPath(_))));
    let empty = estimate(dir.path()).await;
    assert!(matches!(empty, Err(LoadError::Unusable { .. })));
    let file = dir.path().join("x.bin");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(
        estimate(&file).await,
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
        config: json!({}),
        tensors: vec![
            tensor("model.layers.0.mlp.weight", 2),
            tensor("model.layers.0.norm.weight", 1),
            tensor("model.embed_tokens.weight", 2),
        ],
    };
    let weights = |isq| weights(&inspection, ModelDType::F32, isq);
    // The largest tensor of the file, 2,000 bytes, is left behind.
    assert_eq!(weights(None), 12_000 + 2_000);
    assert_eq!(weights(Some(IsqType::Q8_0)), 8_000 + 1_062 + 2_000);
    assert_eq!(weights(Some(IsqType::Q4K)), 8_000 + 562 + 2_000);
}

/// SmolLM2-135M-Instruct with this context, in F16 or as GGUF file in Q4_1.
fn smollm2(context: u64, is_gguf: bool) -> Inspection {
    const EMBEDDINGS: u64 = 49_152 * 576;
    const LAYER: u64 = 3_538_944;
    let layers = (0..30).map(|layer| (format!("model.layers.{layer}.weight"), LAYER));
    if is_gguf {
        let mut header = GgufHeader::default();
        for (name, value) in [
            ("general.architecture", json!("llama")),
            ("llama.embedding_length", json!(576)),
            ("llama.attention.head_count", json!(9)),
            ("llama.attention.head_count_kv", json!(3)),
            ("llama.block_count", json!(30)),
            ("llama.feed_forward_length", json!(1_536)),
            ("llama.context_length", json!(context)),
        ] {
            header.values.insert(name.into(), value);
        }
        let embeddings = ("token_embd.weight".to_owned(), EMBEDDINGS);
        for (name, elements) in layers.chain([embeddings]) {
            header.tensors.push(GgufTensor {
                name,
                elements,
                shape: vec![elements],
                kind: 3,
                offset: 0,
            });
        }
        return Inspection::Gguf(vec![header]);
    }
    let embeddings = ("model.embed_tokens.weight".to_owned(), EMBEDDINGS);
    let tensors = layers.chain([embeddings]).map(|(name, elements)| Tensor {
        name,
        elements,
        dtype: Dtype::F16,
        dimensions: 2,
    });
    Inspection::Folder {
        config: json!({
            "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152,
            "num_hidden_layers": 30, "intermediate_size": 1_536, "max_position_embeddings": context,
        }),
        tensors: tensors.collect(),
    }
}

#[test]
fn estimate_is_close_to_what_was_measured() {
    // The peaks of a runner whose context was full, in MiB, without the code that it shares with two other
    // processes; docs/performance.md says how they were measured.
    for (context, is_gguf, measured) in [
        (1_024, true, 366),
        (2_048, true, 426),
        (8_192, true, 1_178),
        (1_024, false, 753),
        (2_048, false, 827),
    ] {
        let inspection = smollm2(context, is_gguf);
        let weights = weights(&inspection, ModelDType::F32, None);
        let cache_width = if is_gguf { GGUF_WIDTH } else { F32 };
        let estimate = peak(ModelShape::of(&inspection), weights, cache_width, 1) >> 20;
        let error = estimate as f64 / f64::from(measured) - 1.0;
        assert!(
            error.abs() < 0.1,
            "context {context}: {estimate} MiB, not {measured}"
        );
    }
}
