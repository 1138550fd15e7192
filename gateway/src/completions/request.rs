//! The JSON fields of a completion request, and their validation.

use flotilla_core::generate::{
    GenerateInput, GenerateRequest, RequestError, Route, UpstreamFields,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::Caller;
use crate::extra_fields::ExtraFields;
use crate::prompt_inputs::{PromptInput, PromptInputs};
use crate::range::check_range;
use crate::routing_fields::{RoutingFields, parse_route};
use crate::sampling::SamplingFields;
use crate::stream_options::StreamOptions;

/// Maximum number of prompts per request.
const MAX_PROMPTS: usize = 128;
/// Maximum number of alternatives per token, as in OpenAI's API.
const MAX_LOGPROBS: u32 = 5;
/// OpenAI's default of `max_tokens` for this endpoint.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// The body of `/v1/completions`, without the fields of [`SamplingFields`].
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct CompletionBody {
    model: String,
    prompt: PromptInputs,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    stream_options: Option<StreamOptions>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    logprobs: Option<u32>,
    #[serde(default)]
    echo: Option<bool>,
    #[serde(default)]
    best_of: Option<u32>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    suffix: Option<String>,
    #[serde(default)]
    flotilla: Option<RoutingFields>,
}

/// A validated request.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    /// One generation per prompt. There is at least one, and they differ only in the prompt.
    pub(crate) generations: Vec<GenerateRequest<Route>>,
    /// Whether a stream ends with a usage chunk.
    pub(crate) include_usage: bool,
    /// Whether the answer is the prompt alone.
    pub(crate) prompt_only: bool,
    echo: bool,
}

impl CompletionRequest {
    /// Returns whether the answer is streamed.
    pub(crate) fn stream(&self) -> bool {
        self.generations[0].stream
    }

    /// Returns the number of choices of all prompts together.
    pub(crate) fn choices(&self) -> u32 {
        self.generations.iter().map(|request| request.choices).sum()
    }

    /// Returns whether the answer has log-probabilities.
    pub(crate) fn logprobs(&self) -> bool {
        self.generations[0].logprobs.is_some()
    }

    /// Returns the text that precedes each choice: its prompt with `echo`, else an empty list.
    pub(crate) fn echo(&self) -> Vec<String> {
        if !self.echo {
            return Vec::new();
        }
        let prompts = self.generations.iter().flat_map(|generation| {
            let prompt = match &generation.input {
                GenerateInput::Text(text) => text.as_str(),
                GenerateInput::Chat(_) | GenerateInput::Tokens(_) => "",
            };
            (0..generation.choices).map(move |_| prompt.to_owned())
        });
        prompts.collect()
    }
}

impl CompletionBody {
    /// Validates the request and applies the defaults.
    ///
    /// # Errors
    /// [`RequestError::Invalid`] with the name of the first invalid field.
    pub(crate) fn validate(
        self,
        sampling: SamplingFields,
        extra: ExtraFields,
        caller: &Caller,
    ) -> Result<CompletionRequest, RequestError> {
        let route = parse_route(&self.model, self.flotilla, caller)?;
        let stream = self.stream.unwrap_or(false);
        let echo = self.echo.unwrap_or(false);
        let include_usage = StreamOptions::validate(self.stream_options, stream)?;
        if self.suffix.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(RequestError::invalid(
                "suffix",
                "'suffix' is not supported.",
            ));
        }
        let choices = sampling.choices()?;
        if self.best_of.is_some_and(|best_of| best_of != choices) {
            return Err(RequestError::invalid(
                "best_of",
                "'best_of' is only supported when it equals 'n'.",
            ));
        }
        let logprobs = self
            .logprobs
            .map(|k| check_range("logprobs", k, 0..=MAX_LOGPROBS))
            .transpose()?;
        let prompts = self.prompt.validate("prompt", MAX_PROMPTS, &route.target)?;
        let has_tokens = prompts.iter().any(|p| matches!(p, PromptInput::Tokens(_)));
        if echo && has_tokens && logprobs.is_none() {
            return Err(RequestError::invalid(
                "echo",
                "'echo' needs prompts that are texts, or 'logprobs': the text of token ids comes with them.",
            ));
        }
        let max_tokens = self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
        let prompt_only = echo && max_tokens == 0;
        let max_tokens = max_tokens.max(u32::from(prompt_only));
        let sampling = sampling.validate(Some(("max_tokens", max_tokens)))?;
        let upstream = UpstreamFields {
            user: self.user,
            max_completion_tokens: false,
            extra: extra.into_text(),
        };
        let generations = prompts
            .into_iter()
            .map(|prompt| match prompt {
                PromptInput::Text(text) => GenerateInput::Text(text),
                PromptInput::Tokens(tokens) => GenerateInput::Tokens(tokens),
            })
            .map(|input| GenerateRequest {
                sampling: sampling.clone(),
                logprobs,
                prompt_logprobs: echo && logprobs.is_some(),
                choices,
                stream,
                upstream: upstream.clone(),
                ..GenerateRequest::new(route.clone(), input)
            })
            .collect();
        Ok(CompletionRequest {
            generations,
            include_usage,
            prompt_only,
            echo,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::tests::caller;
    use http::HeaderMap;

    fn validate(fields: &str) -> Result<CompletionRequest, RequestError> {
        let json = format!(r#"{{"model": "m", {fields}}}"#);
        let body: CompletionBody = serde_json::from_str(&json).unwrap();
        body.validate(
            serde_json::from_str(&json).unwrap(),
            ExtraFields::default(),
            &caller(HeaderMap::new()),
        )
    }

    #[test]
    fn each_prompt_becomes_a_generation() {
        let request = validate(r#""prompt": ["a", "b"], "n": 2, "echo": true"#).unwrap();
        assert_eq!(request.generations.len(), 2);
        assert_eq!(request.echo(), ["a", "a", "b", "b"]);
        assert_eq!(request.generations[0].sampling.max_tokens, Some(16));
    }

    #[test]
    fn echo_without_new_tokens_is_the_prompt() {
        let request = validate(r#""prompt": "a", "echo": true, "max_tokens": 0"#).unwrap();
        assert!(request.prompt_only);
        assert_eq!(request.generations[0].sampling.max_tokens, Some(1));
        let request = validate(r#""prompt": "a", "echo": true, "max_tokens": 3"#).unwrap();
        assert!(!request.prompt_only);
    }

    #[test]
    fn token_ids_are_prompts() {
        let request = validate(r#""prompt": [[1, 2], [3]]"#).unwrap();
        let inputs: Vec<_> = request.generations.into_iter().map(|g| g.input).collect();
        let tokens = |ids: &[u32]| GenerateInput::Tokens(ids.to_vec());
        assert_eq!(inputs, [tokens(&[1, 2]), tokens(&[3])]);
    }

    #[test]
    fn error_names_the_invalid_field() {
        for (fields, field) in [
            (r#""prompt": """#, "prompt"),
            (r#""prompt": []"#, "prompt"),
            (r#""prompt": "a", "best_of": 3"#, "best_of"),
            (r#""prompt": "a", "suffix": "b""#, "suffix"),
            (r#""prompt": "a", "logprobs": 6"#, "logprobs"),
            (r#""prompt": "a", "max_tokens": 0"#, "max_tokens"),
            (r#""prompt": [1], "echo": true"#, "echo"),
        ] {
            let RequestError::Invalid { param, .. } = validate(fields).unwrap_err() else {
                panic!("{fields}");
            };
            assert_eq!(param.as_deref(), Some(field), "{fields}");
        }
    }
}
