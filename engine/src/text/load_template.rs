//! Compiles the chat template of a model that is loaded.

use std::sync::Arc;

use flotilla_core::generate::ChatMessage;
use flotilla_core::spec::ModelSpec;

use super::template_args;
use super::vocabulary::Vocabulary;
use crate::LoadError;
use crate::chat::template::{ChatTemplate, Conversation, RenderError, SpecialTokens};

/// Compiles the chat template of a model, and renders it once. `None` if the model has none.
pub(crate) fn load_template(
    spec: &ModelSpec,
    templates: Vec<(String, String)>,
    special_tokens: SpecialTokens,
    vocabulary: &Vocabulary,
) -> Result<Option<Arc<ChatTemplate>>, LoadError> {
    if templates.is_empty() {
        return Ok(None);
    }
    let template = ChatTemplate::compile(templates, special_tokens).map_err(LoadError::Template)?;
    let arguments = &spec.defaults.chat_template_args;
    template_args::check_defaults(arguments, template.text())?;
    let message = ChatMessage {
        role: "user".into(),
        content: "Hello".into(),
        ..ChatMessage::default()
    };
    let conversation = Conversation {
        messages: &[message],
        tools: &[],
        arguments,
    };
    match template.render(&conversation, &vocabulary.controls) {
        Ok(_) => Ok(Some(Arc::new(template))),
        Err(RenderError::Refused(problem) | RenderError::Failed(problem)) => Err(
            LoadError::Template(format!("it cannot print a message of a user: {problem}")),
        ),
    }
}
