//! Finds tensors that a model's weights lack. mistral.rs loads such a model, and fails at its first answer
//! without naming them.

use std::collections::BTreeSet;

use serde_json::Value;

/// The architectures whose layers all have the same tensors, and whose output layer is `lm_head` unless the
/// configuration ties it to the embeddings.
const UNIFORM: [&str; 10] = [
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "PhiForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Starcoder2ForCausalLM",
];
/// The beginning of the names of all tensors but those of the output layer. Embedding models, which have no
/// output layer, leave it out.
const BASE: &str = "model.";

/// Returns the names of missing tensors, in order. `config` is the folder's `config.json`.
pub(crate) fn missing_tensors(config: &Value, names: &BTreeSet<String>) -> Vec<String> {
    let architecture = config["architectures"][0].as_str().unwrap_or_default();
    if !UNIFORM.contains(&architecture) {
        return Vec::new();
    }
    let is_text = names.iter().any(|name| name.starts_with(BASE));
    let base = if is_text { BASE } else { "" };
    let layers_base = format!("{base}layers.");
    let of_layers = names.iter().filter_map(|name| {
        let (layer, part) = name.strip_prefix(&layers_base)?.split_once('.')?;
        layer.parse::<u64>().ok().map(|_| part)
    });
    let parts: BTreeSet<&str> = of_layers.collect();
    let layers = config["num_hidden_layers"].as_u64().unwrap_or(0);
    let mut missing = Vec::new();
    let mut require = |name: String| {
        if !names.contains(&name) {
            missing.push(name);
        }
    };
    require(format!("{base}embed_tokens.weight"));
    for layer in 0..layers {
        for part in &parts {
            // Older checkpoints have it in some layers, and no engine reads it.
            if !part.ends_with("rotary_emb.inv_freq") {
                require(format!("{layers_base}{layer}.{part}"));
            }
        }
    }
    // Quantised checkpoints have other tensors in its place.
    let has_output = names.iter().any(|name| name.starts_with("lm_head."));
    if config["tie_word_embeddings"] == Value::Bool(false) && is_text && !has_output {
        missing.push("lm_head.weight".to_owned());
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names() -> BTreeSet<String> {
        let names = [
            "model.embed_tokens.weight",
            "model.layers.0.mlp.weight",
            "model.layers.0.norm.weight",
            "model.layers.1.mlp.weight",
            "model.layers.1.norm.weight",
        ];
        names.into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn what_one_layer_has_every_layer_must_have() {
        let mut config = json!({"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2});
        assert!(missing_tensors(&config, &names()).is_empty());
        let mut fewer = names();
        fewer.remove("model.layers.1.mlp.weight");
        assert_eq!(
            missing_tensors(&config, &fewer),
            ["model.layers.1.mlp.weight"]
        );
        config["num_hidden_layers"] = 3.into();
        assert_eq!(
            missing_tensors(&config, &names()),
            ["model.layers.2.mlp.weight", "model.layers.2.norm.weight"]
        );
        config["architectures"] = json!(["Qwen3NextForCausalLM"]);
        assert!(missing_tensors(&config, &names()).is_empty());
    }

    #[test]
    fn embedding_model_has_other_names_and_no_output_layer() {
        let config = json!({
            "architectures": ["Qwen3ForCausalLM"],
            "num_hidden_layers": 2,
            "tie_word_embeddings": false,
        });
        let names = names().into_iter();
        let mut names: BTreeSet<String> = names.map(|name| name.replace(BASE, "")).collect();
        assert!(missing_tensors(&config, &names).is_empty());
        names.remove("layers.0.mlp.weight");
        assert_eq!(missing_tensors(&config, &names), ["layers.0.mlp.weight"]);
    }

    #[test]
    fn output_layer_may_only_lack_where_it_is_tied() {
        let config = |tied: bool| {
            json!({
                "architectures": ["LlamaForCausalLM"],
                "num_hidden_layers": 2,
                "tie_word_embeddings": tied,
            })
        };
        assert!(missing_tensors(&config(true), &names()).is_empty());
        assert_eq!(
            missing_tensors(&config(false), &names()),
            ["lm_head.weight"]
        );
        let mut with = names();
        with.insert("lm_head.weight".into());
        assert!(missing_tensors(&config(false), &with).is_empty());
    }
}
