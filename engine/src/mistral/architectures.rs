//! The architectures that mistral.rs 0.8.1 computes. `docs/models.md` lists them for users.

use flotilla_core::spec::Pipeline;

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

/// Checks that mistral.rs computes a model's architecture.
///
/// # Errors
/// [`LoadError::Architecture`] with its name.
pub(super) fn check(inspection: &Inspection, pipeline: Pipeline) -> Result<(), LoadError> {
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
    Err(LoadError::Architecture(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
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
            assert_eq!(refused, Err(LoadError::Architecture(name.into())));
        }
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
