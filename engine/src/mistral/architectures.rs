//! The architectures that mistral.rs 0.8.1 computes. `docs/models.md` lists them for users.

use flotilla_core::spec::{EngineKind, Pipeline};

use crate::LoadError;
use crate::files::inspection::Inspection;

/// The classes of text models, as `config.json` names them.
const TEXT: [&str; 21] = [
    "DeepseekV2ForCausalLM",
    "DeepseekV3ForCausalLM",
    "Gemma2ForCausalLM",
    "GemmaForCausalLM",
    "Glm4ForCausalLM",
    "Glm4MoeForCausalLM",
    "Glm4MoeLiteForCausalLM",
    "GptOssForCausalLM",
    "GraniteMoeHybridForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Phi3ForCausalLM",
    "PhiForCausalLM",
    "PhiMoEForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "Qwen3NextForCausalLM",
    "SmolLM3ForCausalLM",
    "Starcoder2ForCausalLM",
];
/// The classes of embedding models, as `config.json` names them.
const EMBEDDING: [&str; 2] = ["Gemma3TextModel", "Qwen3ForCausalLM"];
/// The architectures of GGUF files, as their metadata names them.
const GGUF: [&str; 8] = [
    "llama",
    "mistral3",
    "phi2",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3moe",
    "starcoder2",
];

/// Checks that mistral.rs computes a model's architecture, and the number formats of its weights.
///
/// # Errors
/// [`LoadError::Quantization`] with the format, [`LoadError::Architecture`] with the architecture's name.
pub(super) fn check(inspection: &Inspection, pipeline: Pipeline) -> Result<(), LoadError> {
    if let Inspection::Gguf(headers) = inspection {
        let mut tensors = headers.iter().flat_map(|header| &header.tensors);
        if let Some(tensor) = tensors.find(|tensor| !tensor.is_known()) {
            return Err(LoadError::Quantization(format!(
                "the tensor {} has the number format {} of GGUF",
                tensor.name, tensor.kind
            )));
        }
    }
    let (name, known): (&str, &[&str]) = match inspection {
        Inspection::Folder { config, .. } => {
            let name = config["architectures"][0].as_str();
            let known: &[&str] = match pipeline {
                Pipeline::Text => &TEXT,
                Pipeline::Embedding => &EMBEDDING,
            };
            (name.unwrap_or("(config.json names none)"), known)
        }
        Inspection::Gguf(headers) => {
            let name = headers.first().and_then(|header| header.architecture());
            (name.unwrap_or("(the GGUF file names none)"), &GGUF)
        }
    };
    if known.contains(&name) || known.contains(&&*name.to_ascii_lowercase()) {
        return Ok(());
    }
    Err(LoadError::Architecture {
        engine: EngineKind::Mistral,
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::gguf_header::{GgufHeader, GgufTensor};
    use serde_json::json;

    #[test]
    fn unknown_architecture_is_named() {
        let folder = |name: &str| Inspection::Folder {
            config: json!({"architectures": [name]}),
            tensors: Vec::new(),
        };
        assert!(check(&folder("LlamaForCausalLM"), Pipeline::Text).is_ok());
        assert!(check(&folder("Qwen3ForCausalLM"), Pipeline::Embedding).is_ok());
        for (name, pipeline) in [
            ("BertModel", Pipeline::Embedding),
            ("LlamaForCausalLM", Pipeline::Embedding),
            ("RwkvForCausalLM", Pipeline::Text),
        ] {
            let refused = check(&folder(name), pipeline);
            let is_named = matches!(&refused, Err(LoadError::Architecture { name: refused, .. }) if refused == name);
            assert!(is_named, "{refused:?}");
        }
    }

    #[test]
    fn unknown_number_format_of_a_gguf_file_is_named() {
        let mut header = GgufHeader::default();
        header.tensors.push(GgufTensor {
            name: "a.weight".into(),
            elements: 1,
            shape: vec![1],
            kind: 20,
            offset: 0,
        });
        let refused = check(&Inspection::Gguf(vec![header]), Pipeline::Text).unwrap_err();
        assert!(matches!(&refused, LoadError::Quantization(text) if text.contains("a.weight")));
    }

    #[test]
    fn documentation_lists_every_architecture() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/models.md");
        let docs = std::fs::read_to_string(docs).unwrap();
        for name in TEXT.iter().chain(&EMBEDDING).chain(&GGUF) {
            assert!(docs.contains(&format!("`{name}`")), "{name}");
        }
    }
}
