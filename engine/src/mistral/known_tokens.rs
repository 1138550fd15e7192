//! The tokens that a loaded model has.

use super::built_model::WeightsWatch;
use crate::text::token_ids::KnowsToken;

/// Returns the vocabulary of a model that was just loaded.
pub(crate) async fn known_tokens(weights: &WeightsWatch) -> KnowsToken {
    let tokenizer = match weights.upgrade() {
        Some(pipeline) => pipeline.lock().await.tokenizer(),
        None => None,
    };
    Box::new(move |token| {
        let tokenizer = tokenizer.as_ref();
        tokenizer.is_some_and(|tokenizer| tokenizer.id_to_token(token).is_some())
    })
}
