//! A completion request as clients send it, and its checks.

use flotilla_core::admission::QueueKey;
use flotilla_core::generate::{GenerateInput, GenerateRequest, RequestError, Route, ToolChoice};
use http::HeaderMap;
use serde::Deserialize;

use crate::chat::StreamOptions;
use crate::number::within;
use crate::route::{RoutingFields, route};
use crate::sampling::SamplingFields;

/// Most prompts of one request.
const MAX_PROMPTS: usize = 128;
/// Most alternatives per token that can be asked for.
const MAX_LOGPROBS: u32 = 5;
/// OpenAI's default for this endpoint.
const DEFAULT_MAX_TOKENS: u32 = 16;

/// The body of `/v1/completions`, without the fields of [`SamplingFields`].
#[derive(Debug, Deserialize)]
pub(crate) struct CompletionBody {
    model: String,
    prompt: Prompt,
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
    suffix: Option<String>,
    #[serde(default)]
    flotilla: Option<RoutingFields>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a string or an array of strings")]
enum Prompt {
    One(String),
    Many(Vec<String>),
}

/// A checked request.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    /// One per prompt, at least one, alike but for the prompt.
    pub(crate) generations: Vec<GenerateRequest<Route>>,
    pub(crate) include_usage: bool,
    echo: bool,
}

impl CompletionRequest {
    pub(crate) fn stream(&self) -> bool {
        self.generations[0].stream
    }

    pub(crate) fn logprobs(&self) -> bool {
        self.generations[0].logprobs.is_some()
    }

    /// The text to put before each choice: its prompt, or nothing.
    pub(crate) fn echo(&self) -> Vec<String> {
        if !self.echo {
            return Vec::new();
        }
        let prompts = self.generations.iter().flat_map(|generation| {
            let prompt = match &generation.input {
                GenerateInput::Text(text) => text.as_str(),
                GenerateInput::Chat(_) => "",
            };
            (0..generation.choices).map(move |_| prompt.to_owned())
        });
        prompts.collect()
    }
}

impl CompletionBody {
    /// Checks everything and fills in the defaults.
    pub(crate) fn check(
        self,
        sampling: SamplingFields,
        headers: &HeaderMap,
    ) -> Result<CompletionRequest, RequestError> {
        let model = route(&self.model, self.flotilla, headers)?;
        let stream = self.stream.unwrap_or(false);
        let echo = self.echo.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(RequestError::invalid(
                "stream_options",
                "'stream_options' is only allowed when 'stream' is true.",
            ));
        }
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
                "'best_of' is only supported where it equals 'n'.",
            ));
        }
        let logprobs = self
            .logprobs
            .map(|k| within("logprobs", k, 0..=MAX_LOGPROBS))
            .transpose()?;
        if echo && logprobs.is_some() {
            return Err(RequestError::invalid(
                "logprobs",
                "'logprobs' together with 'echo' is not supported.",
            ));
        }
        let prompts = match self.prompt {
            Prompt::One(text) => vec![text],
            Prompt::Many(texts) => texts,
        };
        if prompts.is_empty() || prompts.len() > MAX_PROMPTS || prompts.iter().any(String::is_empty)
        {
            return Err(RequestError::invalid(
                "prompt",
                format!(
                    "'prompt' must be a text, or 1 to {MAX_PROMPTS} texts, none of them empty."
                ),
            ));
        }
        let max_tokens = self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
        let sampling = sampling.check(Some(("max_tokens", max_tokens)))?;
        let include_usage = self.stream_options.and_then(|o| o.include_usage);
        let generations = prompts
            .into_iter()
            .map(|prompt| GenerateRequest {
                model: model.clone(),
                input: GenerateInput::Text(prompt),
                sampling: sampling.clone(),
                tools: Vec::new(),
                tool_choice: ToolChoice::Auto,
                constraint: None,
                logprobs,
                choices,
                stream,
                queue_key: QueueKey::default(),
                deadline: None,
            })
            .collect();
        Ok(CompletionRequest {
            generations,
            include_usage: include_usage.unwrap_or(false),
            echo,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &str) -> Result<CompletionRequest, RequestError> {
        let json = format!(r#"{{"model": "m", {fields}}}"#);
        let body: CompletionBody = serde_json::from_str(&json).unwrap();
        body.check(serde_json::from_str(&json).unwrap(), &HeaderMap::new())
    }

    #[test]
    fn several_prompts_are_several_generations() {
        let request = check(r#""prompt": ["a", "b"], "n": 2, "echo": true"#).unwrap();
        assert_eq!(request.generations.len(), 2);
        assert_eq!(request.echo(), ["a", "a", "b", "b"]);
        assert_eq!(request.generations[0].sampling.max_tokens, Some(16));
    }

    #[test]
    fn each_wrong_field_is_named() {
        for (fields, field) in [
            (r#""prompt": """#, "prompt"),
            (r#""prompt": []"#, "prompt"),
            (r#""prompt": "a", "best_of": 3"#, "best_of"),
            (r#""prompt": "a", "suffix": "b""#, "suffix"),
            (r#""prompt": "a", "logprobs": 6"#, "logprobs"),
            (r#""prompt": "a", "logprobs": 1, "echo": true"#, "logprobs"),
        ] {
            let RequestError::Invalid { param, .. } = check(fields).unwrap_err() else {
                panic!("{fields}");
            };
            assert_eq!(param.as_deref(), Some(field), "{fields}");
        }
    }
}
