//! Checks token ids of clients: the engine fails at one that the model does not have, and every other
//! answer with it.

use flotilla_core::generate::RequestError;

/// Whether the model's vocabulary has a token.
pub(crate) type KnowsToken = Box<dyn Fn(u32) -> bool + Send + Sync>;

/// Refuses tokens that the model does not have. `param` is the field that they come from.
pub(crate) fn check(
    tokens: &[u32],
    param: &str,
    knows_token: impl Fn(u32) -> bool,
) -> Result<(), RequestError> {
    match tokens.iter().find(|token| !knows_token(**token)) {
        None => Ok(()),
        Some(token) => Err(RequestError::invalid(
            param,
            format!(
                "The model has no token {token}: token ids must be of the model's own vocabulary. Send texts instead; \
                 LangChain's OpenAIEmbeddings does with check_embedding_ctx_length=False."
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_token_is_named_with_what_to_do() {
        let knows_token: KnowsToken = Box::new(|token| token < 10);
        assert!(check(&[0, 9], "input", &knows_token).is_ok());
        let error = check(&[0, 10], "input", &knows_token).unwrap_err();
        assert!(matches!(&error, RequestError::Invalid { param: Some(p), .. } if p == "input"));
        let text = error.to_string();
        assert!(text.contains("no token 10") && text.contains("check_embedding_ctx_length=False"));
    }
}
