//! Reads the vocabulary and the chat template of a model that llama.cpp has loaded.

use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llguidance::ParserFactory;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};

use super::tokenizer::Tokenizer;
use crate::chat::template::SpecialTokens;
use crate::files::gguf_header::GgufHeader;
use crate::text::end_tokens::end_tokens;
use crate::text::vocabulary::Vocabulary;

/// The name of the template that is used where none is asked for.
const DEFAULT: &str = "default";
/// The key of a file's template; others follow it with their names.
const TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// The chat templates of a file, each with its name. Empty if it has none.
pub(super) fn templates(header: &GgufHeader) -> Vec<(String, String)> {
    let named = header.values.iter().filter_map(|(key, value)| {
        let name = match key.strip_prefix(TEMPLATE_KEY)? {
            "" => DEFAULT,
            name => name.strip_prefix('.')?,
        };
        Some((name.to_owned(), value.as_str()?.to_owned()))
    });
    named.collect()
}

/// The texts of the tokens that chat templates print. Where a file names none, llama.cpp assumes some of the first
/// tokens, which are others in most vocabularies.
pub(super) fn special_tokens(model: &LlamaModel, header: &GgufHeader) -> SpecialTokens {
    let vocab = model.vocab();
    let text = |name: &str| {
        let token = i32::try_from(header.number(&format!("tokenizer.ggml.{name}"))?).ok()?;
        let is_known = (0..vocab.n_tokens()).contains(&token);
        let bytes = is_known.then(|| vocab.token_to_piece(LlamaToken(token), true, None));
        String::from_utf8(bytes?).ok()
    };
    SpecialTokens {
        bos: text("bos_token_id"),
        eos: text("eos_token_id"),
        unknown: text("unknown_token_id"),
    }
}

/// The vocabulary of a model. `templates` are those of its chats.
pub(super) fn vocabulary(
    model: &Arc<LlamaModel>,
    tokenizer: &Arc<Tokenizer>,
    header: &GgufHeader,
    templates: &[(String, String)],
) -> Vocabulary {
    let vocab = model.vocab();
    let is_end = |token: &u32| vocab.is_eog(LlamaToken(token.cast_signed()));
    let own_ends: Vec<u32> = (0..vocab.n_tokens().max(0).cast_unsigned())
        .filter(is_end)
        .collect();
    let texts: Vec<&str> = templates.iter().map(|(_, text)| text.as_str()).collect();
    let token_id = |name: &str| tokenizer.control_id(name);
    let ends = end_tokens(&own_ends, Some(header), &texts.join("\n"), token_id);
    let (text, ids) = (tokenizer.clone(), tokenizer.clone());
    Vocabulary {
        token_text: Box::new(move |token| {
            String::from_utf8_lossy(&text.bytes(token, true)).into_owned()
        }),
        token_ids: Box::new(move |text, is_raw| ids.encode(text, is_raw)),
        controls: tokenizer.control_tokens(),
        grammars: grammars(model, tokenizer, &ends),
        end_tokens: Arc::from(ends),
        // The thread knows them all.
        more_end_tokens: Vec::new(),
    }
}

/// Compiles grammars over the tokens of a model. `None` if it has no token that ends an answer.
fn grammars(model: &LlamaModel, tokenizer: &Tokenizer, ends: &[u32]) -> Option<Arc<ParserFactory>> {
    let count = model.vocab().n_tokens().max(0).cast_unsigned();
    let words: Vec<Vec<u8>> = (0..count)
        .map(|token| {
            let bytes = tokenizer.bytes(token, false);
            if !bytes.is_empty() {
                return bytes;
            }
            match tokenizer.bytes(token, true) {
                name if name.is_empty() => name,
                name => [&[TokTrie::SPECIAL_TOKEN_MARKER], &*name].concat(),
            }
        })
        .collect();
    let info = TokRxInfo::new(count, *ends.first()?);
    let tokens = TokTrie::from(&info, &words);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(tokens));
    ParserFactory::new_simple(&environment).ok().map(Arc::new)
}
