//! The context of a request.

use flotilla_core::spec::{DEFAULT_CONTEXT_LENGTH, EngineOptions};

use crate::LoadError;

/// The context of a request, in tokens, where the model's files state `stated`: as the spec says, else at most
/// [`DEFAULT_CONTEXT_LENGTH`].
///
/// # Errors
/// [`LoadError::Spec`] if the spec asks for more than the files state.
pub(crate) fn context_length(options: &EngineOptions, stated: u64) -> Result<u64, LoadError> {
    match options.context_length.map(u64::from) {
        None => Ok(stated.min(u64::from(DEFAULT_CONTEXT_LENGTH))),
        Some(limit) if limit <= stated => Ok(limit),
        Some(limit) => Err(LoadError::Spec(format!(
            "spec.options.contextLength is {limit}, but the model has a context of {stated} tokens"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_is_what_the_spec_says_and_the_files_have() {
        let context = |length, stated| {
            let options = EngineOptions {
                context_length: length,
                ..EngineOptions::default()
            };
            context_length(&options, stated)
        };
        assert_eq!(context(None, 2_048), Ok(2_048));
        assert_eq!(context(None, 131_072), Ok(8_192));
        assert_eq!(context(Some(32_768), 131_072), Ok(32_768));
        assert_eq!(context(Some(100), 131_072), Ok(100));
        let refused = context(Some(4_096), 2_048).unwrap_err();
        assert!(refused.to_string().contains("a context of 2048 tokens"));
    }
}
