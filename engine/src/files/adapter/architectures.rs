//! How the tensors of GGUF files follow from the modules of Hugging Face's models, for each architecture.
//!
//! This is what llama.cpp's `convert_hf_to_gguf.py` does with them. Architectures and modules of which it cuts, joins or
//! reorders the tensors in other ways than described here are left out.

use serde_json::Value;

use crate::files::gguf_header::GgufHeader;

/// Pairs of a module in a layer and its tensor.
type Modules = [(&'static str, &'static str)];

const ATTENTION: &Modules = &[
    ("self_attn.q_proj", QUERIES),
    ("self_attn.k_proj", KEYS),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
];
const GATED_FEED_FORWARD: &Modules = &[
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
const PHI2: &Modules = &[
    ("self_attn.q_proj", QUERIES),
    ("self_attn.k_proj", KEYS),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.dense", "attn_output"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
];
/// Queries, keys and values are one tensor in both, and so are gate and up.
const PHI3: &Modules = &[
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
const STARCODER2_FEED_FORWARD: &Modules = &[("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down")];
const LFM2: &Modules = &[
    ("self_attn.q_proj", QUERIES),
    ("self_attn.k_proj", KEYS),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.out_proj", "attn_output"),
    ("feed_forward.w1", "ffn_gate"),
    ("feed_forward.w2", "ffn_down"),
    ("feed_forward.w3", "ffn_up"),
    ("conv.in_proj", "shortconv.in_proj"),
    ("conv.out_proj", "shortconv.out_proj"),
];

const QUERIES: &str = "attn_q";
const KEYS: &str = "attn_k";

/// The beginnings of the names of a model's modules. Models that see pictures have their language model inside.
const BEGINNINGS: [&str; 4] = [
    "model.language_model.",
    "language_model.model.",
    "model.text_model.",
    "model.",
];

/// An architecture of GGUF files.
#[derive(Debug)]
pub(super) struct Architecture {
    name: &'static str,
    modules: &'static [&'static Modules],
    /// Whether the rows of queries and keys are put in another order: Hugging Face's models rotate the two halves of a
    /// head against each other, llama.cpp rotates neighbours.
    rotates_neighbours: bool,
}

const fn rotating_neighbours(
    name: &'static str,
    modules: &'static [&'static Modules],
) -> Architecture {
    Architecture {
        name,
        modules,
        rotates_neighbours: true,
    }
}

const fn unchanged(name: &'static str, modules: &'static [&'static Modules]) -> Architecture {
    Architecture {
        name,
        modules,
        rotates_neighbours: false,
    }
}

static ARCHITECTURES: [Architecture; 27] = [
    // With all that share its converter: Mistral, SmolLM, TinyLlama, Yi and others.
    rotating_neighbours("llama", &[ATTENTION, GATED_FEED_FORWARD]),
    rotating_neighbours("llama-embed", &[ATTENTION, GATED_FEED_FORWARD]),
    rotating_neighbours("mistral3", &[ATTENTION, GATED_FEED_FORWARD]),
    rotating_neighbours("smollm3", &[ATTENTION, GATED_FEED_FORWARD]),
    rotating_neighbours("granite", &[ATTENTION, GATED_FEED_FORWARD]),
    rotating_neighbours("arcee", &[ATTENTION, GATED_FEED_FORWARD]),
    rotating_neighbours("olmo", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("olmo2", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("qwen2", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("qwen3", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("qwen35", &[ATTENTION, GATED_FEED_FORWARD]),
    // All experts are one tensor.
    unchanged("qwen2moe", &[ATTENTION]),
    unchanged("qwen3moe", &[ATTENTION]),
    unchanged("gemma", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("gemma2", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("gemma3", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("gemma3n", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("gemma4", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("exaone4", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("seed_oss", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("stablelm", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("command-r", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("cohere2", &[ATTENTION, GATED_FEED_FORWARD]),
    unchanged("starcoder2", &[ATTENTION, STARCODER2_FEED_FORWARD]),
    unchanged("phi2", &[PHI2]),
    unchanged("phi3", &[PHI3]),
    unchanged("lfm2", &[LFM2]),
];

/// The tensor that a module became.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BaseTensor {
    pub(super) name: String,
    /// The number of heads within which the rows were put in another order, if they were.
    pub(super) reordered_heads: Option<u64>,
}

impl Architecture {
    /// Finds an architecture by its name in GGUF files.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|known| known.name == name)
    }

    /// Returns the tensor of a module. `None` if it is not known, or the header states no number of heads.
    pub(super) fn tensor(&self, module: &str, header: &GgufHeader) -> Option<BaseTensor> {
        let unordered = |name: &str| {
            Some(BaseTensor {
                name: name.to_owned(),
                reordered_heads: None,
            })
        };
        let inner = BEGINNINGS
            .iter()
            .find_map(|start| module.strip_prefix(start));
        let inner = inner.unwrap_or(module);
        match inner {
            "embed_tokens" => return unordered("token_embd.weight"),
            "lm_head" | "language_model.lm_head" => return unordered("output.weight"),
            _ => {}
        }
        let (layer, part) = inner.strip_prefix("layers.")?.split_once('.')?;
        let layer: usize = layer.parse().ok()?;
        let mut modules = self.modules.iter().copied().flatten();
        let (_, tensor) = modules.find(|(module, _)| *module == part)?;
        let name = format!("blk.{layer}.{tensor}.weight");
        if !self.rotates_neighbours || ![QUERIES, KEYS].contains(tensor) {
            return unordered(&name);
        }
        let keys = "head_count_kv";
        let states_keys = header
            .values
            .contains_key(&format!("{}.attention.{keys}", self.name));
        let key = match *tensor {
            KEYS if states_keys => keys,
            _ => "head_count",
        };
        let heads = heads(self.name, header, key, layer);
        Some(BaseTensor {
            name,
            reordered_heads: Some(heads?),
        })
    }
}

/// The number of heads that a header states of a layer.
fn heads(architecture: &str, header: &GgufHeader, key: &str, layer: usize) -> Option<u64> {
    let value = header
        .values
        .get(&format!("{architecture}.attention.{key}"))?;
    match value {
        Value::Array(layers) => layers.get(layer)?.as_u64(),
        value => value.as_u64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn header() -> GgufHeader {
        let mut header = GgufHeader::default();
        let values = &mut header.values;
        values.insert("llama.attention.head_count".into(), json!(9));
        values.insert("llama.attention.head_count_kv".into(), json!([3, 1]));
        header
    }

    fn tensor(architecture: &str, module: &str) -> Option<(String, Option<u64>)> {
        let architecture = Architecture::find(architecture).unwrap();
        let tensor = architecture.tensor(module, &header())?;
        Some((tensor.name, tensor.reordered_heads))
    }

    #[test]
    fn modules_have_the_names_of_llama_cpp() {
        for (architecture, module, name, heads) in [
            (
                "llama",
                "model.layers.0.self_attn.q_proj",
                "blk.0.attn_q.weight",
                Some(9),
            ),
            (
                "llama",
                "model.layers.1.self_attn.k_proj",
                "blk.1.attn_k.weight",
                Some(1),
            ),
            (
                "llama",
                "model.layers.0.self_attn.v_proj",
                "blk.0.attn_v.weight",
                None,
            ),
            (
                "llama",
                "model.text_model.layers.7.mlp.up_proj",
                "blk.7.ffn_up.weight",
                None,
            ),
            ("llama", "lm_head", "output.weight", None),
            (
                "gemma3",
                "model.language_model.embed_tokens",
                "token_embd.weight",
                None,
            ),
            (
                "qwen2",
                "layers.3.self_attn.q_proj",
                "blk.3.attn_q.weight",
                None,
            ),
            (
                "phi3",
                "model.layers.3.self_attn.qkv_proj",
                "blk.3.attn_qkv.weight",
                None,
            ),
            (
                "phi3",
                "model.layers.3.mlp.gate_up_proj",
                "blk.3.ffn_up.weight",
                None,
            ),
            (
                "lfm2",
                "model.layers.3.conv.in_proj",
                "blk.3.shortconv.in_proj.weight",
                None,
            ),
        ] {
            assert_eq!(
                tensor(architecture, module),
                Some((name.into(), heads)),
                "{architecture} {module}"
            );
        }
    }

    #[test]
    fn what_is_not_known_has_no_tensor() {
        assert!(Architecture::find("mamba").is_none());
        for (architecture, module) in [
            ("qwen3moe", "model.layers.0.mlp.experts.0.up_proj"),
            ("phi3", "model.layers.0.self_attn.q_proj"),
            ("llama", "model.layers.x.self_attn.q_proj"),
            ("llama", "model.vision_tower.layers.0.self_attn.q_proj"),
            // The header states no heads of layer 2.
            ("llama", "model.layers.2.self_attn.k_proj"),
        ] {
            assert_eq!(tensor(architecture, module), None, "{module}");
        }
    }
}
