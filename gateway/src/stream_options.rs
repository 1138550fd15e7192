//! The request fields `stream` and `stream_options`.

use flotilla_core::generate::RequestError;
use schemars::JsonSchema;
use serde::Deserialize;

/// OpenAI's `stream_options`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

impl StreamOptions {
    /// Returns whether the stream ends with a usage chunk.
    ///
    /// # Errors
    /// `options` is set on a request that is not streamed.
    pub(crate) fn validate(options: Option<Self>, stream: bool) -> Result<bool, RequestError> {
        if options.is_some() && !stream {
            return Err(RequestError::invalid(
                "stream_options",
                "'stream_options' is only allowed when 'stream' is true.",
            ));
        }
        let include_usage = options.and_then(|options| options.include_usage);
        Ok(include_usage.unwrap_or(false))
    }
}
