//! Reads the vocabulary and the chat template of a model that mistral.rs has loaded.

use std::sync::Arc;

use either::Either;
use mistralrs_core::{ChatTemplate as EngineTemplate, Pipeline};

use super::prompt_tokenizer::PromptTokenizer;
use crate::chat::control_tokens::ControlTokens;
use crate::chat::template::SpecialTokens;
use crate::files::gguf_header::GgufHeader;
use crate::text::end_tokens::end_tokens;
use crate::text::vocabulary::Vocabulary;

/// The vocabulary and the chat template of a model.
pub(super) struct PipelineText {
    pub(super) vocabulary: Vocabulary,
    /// The chat templates, each with its name. Empty if the model has none.
    pub(super) templates: Vec<(String, String)>,
    /// The texts of the tokens that chat templates print.
    pub(super) special_tokens: SpecialTokens,
}

impl PipelineText {
    /// Reads them. `header` is that of a GGUF file. `template` replaces the model's own.
    pub(super) fn read(
        pipeline: &dyn Pipeline,
        header: Option<&GgufHeader>,
        template: Option<String>,
    ) -> Self {
        let engine_template = pipeline.get_chat_template();
        let engine_template = engine_template.as_deref();
        let templates = match template {
            Some(template) => vec![(DEFAULT.to_owned(), template)],
            None => engine_template.map(templates).unwrap_or_default(),
        };
        let special_tokens = engine_template.map(|template| SpecialTokens {
            bos: template.bos_tok(),
            eos: template.eos_tok(),
            unknown: template.unk_tok(),
        });
        Self {
            vocabulary: vocabulary(pipeline, header, &templates),
            templates,
            special_tokens: special_tokens.unwrap_or_default(),
        }
    }
}

/// The name of the only template of a model.
const DEFAULT: &str = "default";

/// The templates of a model: one, or several that are called by their names.
fn templates(template: &EngineTemplate) -> Vec<(String, String)> {
    match template.chat_template.as_ref().map(|template| &template.0) {
        None => Vec::new(),
        Some(Either::Left(text)) => vec![(DEFAULT.to_owned(), text.clone())],
        Some(Either::Right(named)) => {
            let templates = named.iter().flat_map(|fields| {
                match (fields.get("name"), fields.get("template")) {
                    (Some(name), Some(text)) => vec![(name.clone(), text.clone())],
                    _ => fields.clone().into_iter().collect(),
                }
            });
            templates.collect()
        }
    }
}

fn vocabulary(
    pipeline: &dyn Pipeline,
    header: Option<&GgufHeader>,
    templates: &[(String, String)],
) -> Vocabulary {
    let metadata = pipeline.get_metadata();
    let tokenizer = pipeline.tokenizer();
    let engine_ends: Vec<u32> = metadata.eos_tok.clone();
    let texts: Vec<&str> = templates.iter().map(|(_, text)| text.as_str()).collect();
    let token_id = |name: &str| tokenizer.as_ref()?.token_to_id(name);
    let mut ends = end_tokens(&engine_ends, header, &texts.join("\n"), token_id);
    let grammars = metadata.llg_factory.clone();
    if let Some(grammars) = &grammars {
        let tokens = grammars.tok_env().tok_trie();
        // mistral.rs refuses an end token with which the text of another one begins.
        ends.retain(|end| {
            engine_ends.contains(end)
                || ((*end as usize) < tokens.vocab_size()
                    && !tokens.has_extensions(tokens.token(*end)))
        });
    }
    let more_ends = ends.iter().filter(|end| !engine_ends.contains(end));
    let more_ends = more_ends.copied().collect();
    let prompts = tokenizer.clone().map(|tokenizer| match header {
        Some(header) => PromptTokenizer::of_gguf(tokenizer, header),
        None => PromptTokenizer::of_folder(tokenizer),
    });
    let controls = prompts.as_ref().map(PromptTokenizer::control_tokens);
    Vocabulary {
        token_text: Box::new(move |token| {
            let text = tokenizer.as_ref().map(|t| t.decode(&[token], false));
            text.and_then(Result::ok).unwrap_or_default()
        }),
        token_ids: Box::new(move |text, is_raw| prompts.as_ref()?.encode(text, is_raw).ok()),
        controls: controls.unwrap_or_else(|| ControlTokens::new(&[])),
        grammars,
        end_tokens: Arc::from(ends),
        more_end_tokens: more_ends,
    }
}
