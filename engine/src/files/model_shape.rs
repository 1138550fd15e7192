//! The dimensions of a model, which its memory follows from.

use serde_json::Value;

use super::gguf_header::GgufHeader;
use super::inspection::Inspection;

/// The dimensions of a model. All are numbers of elements.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ModelShape {
    pub(crate) layers: u64,
    /// The width of a token between layers.
    pub(crate) hidden: u64,
    /// The width of a token's queries, over all heads.
    pub(crate) queries: u64,
    /// The width of a token's keys, and of its values, over all heads.
    pub(crate) keys: u64,
    /// The width of one head.
    pub(crate) head: u64,
    /// The width of a token inside the feed-forward part of a layer.
    pub(crate) feed_forward: u64,
    pub(crate) vocabulary: u64,
    /// The longest context of a request, in tokens: that of the files, until the spec bounds it.
    pub(crate) context: u64,
    /// The positions that the model has, in tokens: the context of its files.
    pub(crate) positions: u64,
}

impl ModelShape {
    /// The dimensions that a model's files state. `None` if one is missing.
    pub(crate) fn of(inspection: &Inspection) -> Option<Self> {
        match inspection {
            Inspection::Folder { config, .. } => Self::of_config(config),
            Inspection::Gguf(headers) => Self::of_header(headers.first()?),
        }
    }

    fn of_config(config: &Value) -> Option<Self> {
        let number = |name: &str| config[name].as_u64();
        let (hidden, heads) = (number("hidden_size")?, number("num_attention_heads")?);
        let head = number("head_dim").or(hidden.checked_div(heads))?;
        let experts = number("num_experts_per_tok").unwrap_or(1);
        let feed_forward = number("moe_intermediate_size").or(number("intermediate_size"))?;
        let positions = number("max_position_embeddings")?;
        Some(Self {
            layers: number("num_hidden_layers")?,
            hidden,
            queries: heads * head,
            keys: number("num_key_value_heads").unwrap_or(heads) * head,
            feed_forward: feed_forward * experts,
            vocabulary: number("vocab_size")?,
            head,
            context: positions,
            positions,
        })
    }

    /// The dimensions that the header of a GGUF file states. `None` if one is missing.
    pub(crate) fn of_header(header: &GgufHeader) -> Option<Self> {
        let number = |name: &str| header.architecture_number(name);
        let (hidden, heads) = (number("embedding_length")?, number("attention.head_count")?);
        let head = number("attention.key_length").or(hidden.checked_div(heads))?;
        let experts = number("expert_used_count").unwrap_or(1);
        let feed_forward =
            number("expert_feed_forward_length").or(number("feed_forward_length"))?;
        let positions = number("context_length")?;
        let embeddings = header
            .tensors
            .iter()
            .find(|tensor| tensor.name == EMBEDDINGS)?;
        Some(Self {
            layers: number("block_count")?,
            hidden,
            queries: heads * head,
            keys: number("attention.head_count_kv").unwrap_or(heads) * head,
            feed_forward: feed_forward * experts,
            vocabulary: embeddings.elements.checked_div(hidden)?,
            head,
            context: positions,
            positions,
        })
    }
}

/// The name of the embeddings in a GGUF file.
const EMBEDDINGS: &str = "token_embd.weight";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::gguf_header::GgufTensor;
    use serde_json::json;

    #[test]
    fn both_kinds_of_files_state_the_same_dimensions() {
        let shape = ModelShape {
            layers: 30,
            hidden: 576,
            queries: 576,
            keys: 192,
            feed_forward: 1_536,
            vocabulary: 49_152,
            head: 64,
            context: 8_192,
            positions: 8_192,
        };
        let config = json!({
            "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49_152,
            "num_hidden_layers": 30, "intermediate_size": 1_536, "max_position_embeddings": 8_192,
        });
        assert_eq!(ModelShape::of_config(&config), Some(shape));
        let mut header = GgufHeader::default();
        for (name, value) in [
            ("general.architecture", json!("llama")),
            ("llama.embedding_length", json!(576)),
            ("llama.attention.head_count", json!(9)),
            ("llama.attention.head_count_kv", json!([3, 3])),
            ("llama.block_count", json!(30)),
            ("llama.feed_forward_length", json!(1_536)),
            ("llama.context_length", json!(8_192)),
        ] {
            header.values.insert(name.into(), value);
        }
        header.tensors.push(GgufTensor {
            name: EMBEDDINGS.into(),
            elements: 576 * 49_152,
            shape: vec![576, 49_152],
            kind: 0,
            offset: 0,
        });
        assert_eq!(ModelShape::of_header(&header), Some(shape));
        assert_eq!(ModelShape::of_config(&json!({"hidden_size": 576})), None);
    }
}
