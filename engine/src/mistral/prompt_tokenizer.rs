//! Splits prompts into tokens, as the model's own tokenizer does.
//!
//! mistral.rs would do it, but reads control tokens wherever a client writes them, adds a second begin token
//! to a chat template that prints one, adds none to raw prompts of GGUF files, and splits the text of every
//! GGUF file in the same way before it is encoded, whatever the file says.

use std::sync::Arc;

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    Encoding, Model, OffsetType, PostProcessor, PreTokenizer, PreTokenizerWrapper,
    SplitDelimiterBehavior, Tokenizer,
};

use crate::chat::control_tokens::{AddedToken, ControlTokens, MARK};
use crate::files::gguf_header::GgufHeader;

/// A model's tokenizer.
pub(super) struct PromptTokenizer {
    tokenizer: Arc<Tokenizer>,
    /// How a GGUF file says that text is divided before it is encoded. `None` for the tokenizer's own way.
    pre_tokenizer: Option<PreTokenizerWrapper>,
    /// The token that begins a raw prompt of a GGUF file.
    begin_token: Option<u32>,
}

impl PromptTokenizer {
    /// The tokenizer of a folder.
    pub(super) fn of_folder(tokenizer: Arc<Tokenizer>) -> Self {
        Self {
            tokenizer,
            pre_tokenizer: None,
            begin_token: None,
        }
    }

    /// The tokenizer of a GGUF file.
    pub(super) fn of_gguf(tokenizer: Arc<Tokenizer>, header: &GgufHeader) -> Self {
        let vocabulary = header.text("tokenizer.ggml.model");
        let kind = header.text("tokenizer.ggml.pre");
        // As llama.cpp has it where the file says nothing.
        let adds_begin = header.flag("tokenizer.ggml.add_bos_token");
        let adds_begin =
            adds_begin.unwrap_or(vocabulary == Some("llama") || kind == Some("llama-bpe"));
        let begin = header.number("tokenizer.ggml.bos_token_id");
        let begin = begin.and_then(|token| u32::try_from(token).ok());
        Self {
            tokenizer,
            pre_tokenizer: kind
                .filter(|_| vocabulary == Some("gpt2"))
                .and_then(pre_tokenizer),
            begin_token: begin.filter(|_| adds_begin),
        }
    }

    /// The control tokens, which a client's texts must not have.
    pub(super) fn control_tokens(&self) -> ControlTokens {
        let added = self.tokenizer.get_added_vocabulary();
        let added = added.get_added_tokens_decoder().values();
        let added = added.map(|token| AddedToken {
            text: token.content.clone(),
            is_special: token.special,
        });
        ControlTokens::new(&added.collect::<Vec<_>>())
    }

    /// Splits a text. `is_raw` adds the tokens that begin and end every raw prompt; a rendered chat has
    /// them already. Marks of [`ControlTokens`] are removed.
    ///
    /// # Errors
    /// What the tokenizer says of a text that it cannot split.
    pub(super) fn encode(&self, text: &str, is_raw: bool) -> Result<Vec<u32>, String> {
        let encoding = self
            .split(text, is_raw)
            .map_err(|error| error.to_string())?;
        let tokens = encoding.get_ids();
        match self.begin_token.filter(|_| is_raw) {
            Some(begin) => Ok([&[begin], tokens].concat()),
            None => Ok(tokens.to_vec()),
        }
    }

    fn split(&self, text: &str, is_raw: bool) -> tokenizers::Result<Encoding> {
        let tokenizer = &self.tokenizer;
        let added = tokenizer.get_added_vocabulary();
        let mut text_parts = added.extract_and_normalize(tokenizer.get_normalizer(), text);
        if text.contains(MARK) {
            text_parts.normalize(|part| part.replace(MARK, ""))?;
        }
        if let Some(pre_tokenizer) = self
            .pre_tokenizer
            .as_ref()
            .or(tokenizer.get_pre_tokenizer())
        {
            pre_tokenizer.pre_tokenize(&mut text_parts)?;
        }
        text_parts.tokenize(|part| tokenizer.get_model().tokenize(part.get()))?;
        let encoding = text_parts.into_encoding(None, 0, OffsetType::Byte)?;
        match tokenizer.get_post_processor().filter(|_| is_raw) {
            Some(post_processor) => post_processor.process(encoding, None, true),
            None => Ok(encoding),
        }
    }
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";

/// How text is divided in the vocabularies that llama.cpp's converter names so. `None` for others.
fn pre_tokenizer(kind: &str) -> Option<PreTokenizerWrapper> {
    let patterns: &[&str] = match kind {
        "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" => &[GPT2],
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" => &[DIGIT, GPT2],
        "llama-bpe" | "llama3" | "llama-v3" | "smaug-bpe" | "falcon3" | "dbrx" => &[LLAMA3],
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "hunyuan" => &[QWEN2],
        "tekken" => &[TEKKEN],
        _ => return None,
    };
    let mut steps = Vec::new();
    for pattern in patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).ok()?;
        steps.push(PreTokenizerWrapper::Split(split));
    }
    let bytes = ByteLevel::new(false, false, false);
    steps.push(PreTokenizerWrapper::ByteLevel(bytes));
    Some(PreTokenizerWrapper::Sequence(Sequence::new(steps)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::AddedToken as Special;
    use tokenizers::models::wordlevel::WordLevel;
    use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
    use tokenizers::processors::template::TemplateProcessing;

    const CONTROL: u32 = 3;
    const BEGIN: u32 = 4;

    /// A tokenizer whose words are tokens, which adds `<s>` to raw prompts.
    fn words() -> Arc<Tokenizer> {
        let names = ["<unk>", "a", "b"];
        let vocabulary = names.iter().zip(0..);
        let model = WordLevel::builder()
            .vocab(
                vocabulary
                    .map(|(name, id)| ((*name).to_owned(), id))
                    .collect(),
            )
            .unk_token("<unk>".into())
            .build()
            .unwrap();
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
        tokenizer.add_special_tokens(&[Special::from("<|c|>", true), Special::from("<s>", true)]);
        let begin = TemplateProcessing::builder()
            .try_single("<s> $A")
            .unwrap()
            .special_tokens(vec![("<s>", BEGIN)])
            .build()
            .unwrap();
        tokenizer.with_post_processor(Some(begin));
        Arc::new(tokenizer)
    }

    #[test]
    fn marked_control_tokens_are_text() {
        let tokenizer = PromptTokenizer::of_folder(words());
        assert_eq!(tokenizer.encode("a<|c|>b", false).unwrap(), [1, CONTROL, 2]);
        let protected = tokenizer.control_tokens().protect("b <|c|> a");
        let tokens = tokenizer.encode(&format!("<|c|>{protected}"), false);
        assert_eq!(tokens.unwrap(), [CONTROL, 2, 0, 1]);
    }

    #[test]
    fn begin_token_is_added_to_raw_prompts_only() {
        let folder = PromptTokenizer::of_folder(words());
        assert_eq!(folder.encode("a", true).unwrap(), [BEGIN, 1]);
        assert_eq!(folder.encode("<s>a", false).unwrap(), [BEGIN, 1]);
        let mut header = GgufHeader::default();
        let mut set = |name: &str, value: serde_json::Value| {
            header
                .values
                .insert(format!("tokenizer.ggml.{name}"), value);
        };
        set("model", "llama".into());
        set("bos_token_id", 7.into());
        let mut plain = (*words()).clone();
        plain.with_post_processor(None::<TemplateProcessing>);
        let gguf = PromptTokenizer::of_gguf(Arc::new(plain.clone()), &header);
        assert_eq!(gguf.encode("a", true).unwrap(), [7, 1]);
        assert_eq!(gguf.encode("a", false).unwrap(), [1]);
        let add = "tokenizer.ggml.add_bos_token";
        header.values.insert(add.into(), false.into());
        let gguf = PromptTokenizer::of_gguf(Arc::new(plain), &header);
        assert_eq!(gguf.encode("a", true).unwrap(), [1]);
    }

    #[test]
    fn named_vocabularies_divide_text_in_their_own_way() {
        let pieces = |kind, text: &str| {
            let mut pieces = tokenizers::PreTokenizedString::from(text);
            pre_tokenizer(kind)
                .unwrap()
                .pre_tokenize(&mut pieces)
                .unwrap();
            let pieces =
                pieces.get_splits(tokenizers::OffsetReferential::Original, OffsetType::Byte);
            pieces
                .iter()
                .map(|(piece, ..)| (*piece).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            pieces("smollm", "a\n\nb 12"),
            ["a", "Ċ", "Ċ", "b", "Ġ", "1", "2"]
        );
        assert_eq!(
            pieces("qwen2", "a\n\nb 12"),
            ["a", "ĊĊ", "b", "Ġ", "1", "2"]
        );
        assert_eq!(pieces("llama-bpe", "1234"), ["123", "4"]);
        assert_eq!(pieces("gpt-2", "it's 12"), ["it", "'s", "Ġ12"]);
        assert_eq!(pieces("tekken", "fooBar"), ["foo", "Bar"]);
        assert!(pre_tokenizer("unheard-of").is_none());
    }
}
