//! What the tokens of a model's input look at.

use crate::files::gguf_header::GgufHeader;

/// The architectures of llama.cpp that keep no keys and values.
const ENCODERS: [&str; 10] = [
    "bert",
    "clef",
    "eurobert",
    "gemma-embedding",
    "jina-bert-v2",
    "jina-bert-v3",
    "modern-bert",
    "neo-bert",
    "nomic-bert",
    "nomic-bert-moe",
];

/// What a token looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attention {
    /// Itself and what is before it. The keys and values of those are kept, so that an input can be computed in pieces.
    Causal,
    /// All of its input, whose keys and values are kept.
    Full,
    /// All of its input. Nothing is kept.
    Encoder,
}

impl Attention {
    /// The attention of a file's model.
    pub(super) fn of(header: &GgufHeader) -> Self {
        let architecture = header.architecture().unwrap_or_default();
        if ENCODERS.contains(&architecture) {
            return Self::Encoder;
        }
        match header.flag(&format!("{architecture}.attention.causal")) {
            Some(false) => Self::Full,
            Some(true) | None => Self::Causal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn architecture_or_file_says_what_tokens_look_at() {
        let attention = |architecture: &str, causal: Option<bool>| {
            let mut header = GgufHeader::default();
            let key = "general.architecture".to_owned();
            header.values.insert(key, architecture.into());
            if let Some(causal) = causal {
                let key = format!("{architecture}.attention.causal");
                header.values.insert(key, causal.into());
            }
            Attention::of(&header)
        };
        assert_eq!(attention("bert", None), Attention::Encoder);
        assert_eq!(attention("qwen3", None), Attention::Causal);
        assert_eq!(attention("qwen3", Some(true)), Attention::Causal);
        assert_eq!(attention("llama", Some(false)), Attention::Full);
    }
}
