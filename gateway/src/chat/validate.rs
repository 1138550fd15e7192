//! Validates a chat request and converts it to the core's [`GenerateRequest`].

use flotilla_core::generate::{
    GenerateInput, GenerateRequest, JsonSchemaFormat, OutputConstraint, RequestError, Route,
    UpstreamFields, parse_template_args,
};

use super::fields::{ChatBody, ResponseFormat};
use super::messages::validate_messages;
use super::tools::validate_tools;
use crate::Caller;
use crate::extra_fields::ExtraFields;
use crate::range::check_range;
use crate::routing_fields::{parse_route, session_hash};
use crate::sampling::SamplingFields;
use crate::stream_options::StreamOptions;

/// Maximum number of alternatives per token, as in OpenAI's API.
const MAX_TOP_LOGPROBS: u32 = 20;

impl ChatBody {
    /// Validates the request and applies the defaults. Returns the request and whether a stream
    /// ends with a usage chunk.
    ///
    /// # Errors
    /// [`RequestError::Invalid`] with the name of the first invalid field.
    pub(crate) fn validate(
        self,
        sampling: SamplingFields,
        extra: ExtraFields,
        caller: &Caller,
    ) -> Result<(GenerateRequest<Route>, bool), RequestError> {
        let mut route = parse_route(&self.model, self.flotilla, caller)?;
        if let Some(key) = &self.prompt_cache_key {
            route.session.get_or_insert_with(|| session_hash(key));
        }
        let stream = self.stream.unwrap_or(false);
        let include_usage = StreamOptions::validate(self.stream_options, stream)?;
        if self.functions.is_some() || self.function_call.is_some() {
            return Err(RequestError::invalid(
                "functions",
                "'functions' and 'function_call' are not supported: use 'tools' and 'tool_choice'.",
            ));
        }
        if self
            .modalities
            .is_some_and(|modalities| modalities.iter().any(|modality| modality != "text"))
        {
            return Err(RequestError::invalid(
                "modalities",
                "Only the modality 'text' is supported.",
            ));
        }
        let messages = validate_messages(self.messages)?;
        refuse(self.audio.is_some(), "audio", "Answers have no audio.")?;
        refuse(
            self.moderation.is_some(),
            "moderation",
            "Requests and answers are not moderated.",
        )?;
        let (tools, tool_choice) =
            validate_tools(self.tools.unwrap_or_default(), self.tool_choice)?;
        let constraint = self
            .response_format
            .map(validate_response_format)
            .transpose()?
            .flatten();
        let logprobs = validate_logprobs(self.logprobs.unwrap_or(false), self.top_logprobs)?;
        let chat_template_args = self
            .chat_template_kwargs
            .map(|args| validate_template_args(args.get()))
            .transpose()?
            .flatten();
        let max_tokens = self
            .max_completion_tokens
            .map(|tokens| ("max_completion_tokens", tokens))
            .or(self.max_tokens.map(|tokens| ("max_tokens", tokens)));
        let upstream = UpstreamFields {
            user: self.user,
            max_completion_tokens: self.max_completion_tokens.is_some(),
            extra: extra.into_text(),
        };
        let request = GenerateRequest {
            choices: sampling.choices()?,
            sampling: sampling.validate(max_tokens)?,
            tools,
            tool_choice,
            parallel_tool_calls: self.parallel_tool_calls,
            reasoning_effort: self.reasoning_effort,
            constraint,
            logprobs,
            stream,
            chat_template_args,
            upstream,
            ..GenerateRequest::new(route, GenerateInput::Chat(messages))
        };
        Ok((request, include_usage))
    }
}

/// Returns the arguments of the chat template as the text of a JSON object, or `None` if there are none.
fn validate_template_args(text: &str) -> Result<Option<String>, RequestError> {
    let args = parse_template_args(text).map_err(|problem| {
        RequestError::invalid(
            "chat_template_kwargs",
            format!("'chat_template_kwargs' {problem}."),
        )
    })?;
    Ok((!args.is_empty()).then(|| text.to_owned()))
}

/// Refuses a field that would change the answer if it were not ignored.
fn refuse(is_used: bool, field: &str, problem: &str) -> Result<(), RequestError> {
    if is_used {
        return Err(RequestError::invalid(field, problem));
    }
    Ok(())
}

/// Returns the number of alternatives per token, or `None` without log-probabilities.
fn validate_logprobs(
    logprobs: bool,
    top_logprobs: Option<u32>,
) -> Result<Option<u32>, RequestError> {
    match (logprobs, top_logprobs) {
        (true, top) => {
            check_range("top_logprobs", top.unwrap_or(0), 0..=MAX_TOP_LOGPROBS).map(Some)
        }
        (false, Some(_)) => Err(RequestError::invalid(
            "top_logprobs",
            "'top_logprobs' is only allowed when 'logprobs' is true.",
        )),
        (false, None) => Ok(None),
    }
}

fn validate_response_format(
    format: ResponseFormat,
) -> Result<Option<OutputConstraint>, RequestError> {
    match format.kind.as_str() {
        "text" => Ok(None),
        "json_object" => Ok(Some(OutputConstraint::JsonObject)),
        "json_schema" => {
            let field = format.json_schema.unwrap_or_default();
            match field.schema {
                Some(schema) if schema.get().starts_with('{') => {
                    Ok(Some(OutputConstraint::JsonSchema(JsonSchemaFormat {
                        name: field.name,
                        description: field.description,
                        schema: schema.get().to_owned(),
                        strict: field.strict,
                    })))
                }
                _ => Err(RequestError::invalid(
                    "response_format.json_schema.schema",
                    "The response format 'json_schema' needs a schema: a JSON object.",
                )),
            }
        }
        other => Err(RequestError::invalid(
            "response_format.type",
            format!(
                "'{other}' is not a response format: use 'text', 'json_object' or 'json_schema'."
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::tests::caller;
    use http::HeaderMap;

    fn validate(json: &str) -> Result<GenerateRequest<Route>, RequestError> {
        let body: ChatBody = serde_json::from_str(json).unwrap();
        let sampling = serde_json::from_str(json).unwrap();
        let extra = serde_json::from_str(json).unwrap();
        let (request, _) = body.validate(sampling, extra, &caller(HeaderMap::new()))?;
        Ok(request)
    }

    fn body_with(fields: &str) -> String {
        format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "hi"}}]{fields}}}"#)
    }

    #[test]
    fn minimal_request_is_valid() {
        let request = validate(&body_with("")).unwrap();
        assert_eq!(request.choices, 1);
        assert!(!request.stream);
        let GenerateInput::Chat(messages) = request.input else {
            panic!("not a chat");
        };
        assert_eq!(messages[0].content, "hi");
    }

    #[test]
    fn what_only_servers_know_is_kept_as_it_was_sent() {
        let json = body_with(
            r#", "user": "ann", "max_completion_tokens": 9, "parallel_tool_calls": false,
            "reasoning_effort": "low", "seed": -1, "verbosity": "low", "n_predict": 99"#,
        );
        let request = validate(&json).unwrap();
        let upstream = UpstreamFields {
            user: Some("ann".into()),
            max_completion_tokens: true,
            extra: Some(r#"{"verbosity":"low"}"#.into()),
        };
        assert_eq!(request.upstream, upstream);
        assert_eq!(request.sampling.max_tokens, Some(9));
        assert_eq!(request.sampling.seed, Some(-1));
        assert_eq!(request.parallel_tool_calls, Some(false));
        assert_eq!(request.reasoning_effort.as_deref(), Some("low"));
        let named_otherwise = validate(&body_with(r#", "max_tokens": 9"#)).unwrap();
        assert_eq!(named_otherwise.upstream, UpstreamFields::default());
    }

    #[test]
    fn error_names_the_invalid_field() {
        let message_body = |m: &str| format!(r#"{{"model": "m", "messages": [{m}]}}"#);
        for (json, field) in [
            (r#"{"model": "m", "messages": []}"#.to_owned(), "messages"),
            (
                message_body(r#"{"role": "robot", "content": ""}"#),
                "messages[0].role",
            ),
            (message_body(r#"{"role": "user"}"#), "messages[0].content"),
            (
                message_body(r#"{"role": "tool", "content": "1"}"#),
                "messages[0].tool_call_id",
            ),
            (
                message_body(r#"{"role": "user", "content": [{"type": "image_url"}]}"#),
                "messages[0].content[0]",
            ),
            (
                message_body(
                    r#"{"role": "user", "content": [{"type": "refusal", "refusal": "No."}]}"#,
                ),
                "messages[0].content[0]",
            ),
            (body_with(r#", "n": 0"#), "n"),
            (body_with(r#", "max_tokens": 0"#), "max_tokens"),
            (body_with(r#", "top_logprobs": 2"#), "top_logprobs"),
            (
                body_with(r#", "logprobs": true, "top_logprobs": 21"#),
                "top_logprobs",
            ),
            (body_with(r#", "stream_options": {}"#), "stream_options"),
            (body_with(r#", "tool_choice": "required""#), "tool_choice"),
            (body_with(r#", "tool_choice": "sometimes""#), "tool_choice"),
            (body_with(r#", "tools": [{"type": "x"}]"#), "tools[0]"),
            (body_with(r#", "audio": {"voice": "x"}"#), "audio"),
            (body_with(r#", "moderation": {}"#), "moderation"),
            (body_with(r#", "functions": []"#), "functions"),
            (
                body_with(r#", "chat_template_kwargs": [true]"#),
                "chat_template_kwargs",
            ),
            (body_with(r#", "modalities": ["audio"]"#), "modalities"),
            (
                body_with(r#", "response_format": {"type": "xml"}"#),
                "response_format.type",
            ),
            (
                body_with(r#", "response_format": {"type": "json_schema"}"#),
                "response_format.json_schema.schema",
            ),
        ] {
            let error = validate(&json).unwrap_err();
            let RequestError::Invalid { param, .. } = error else {
                panic!("{json}: {error:?}");
            };
            assert_eq!(param.as_deref(), Some(field), "{json}");
        }
    }

    #[test]
    fn refusal_of_an_assistant_is_its_content() {
        for message in [
            r#"{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}"#,
            r#"{"role": "assistant", "content": null, "refusal": "No."}"#,
        ] {
            let request = validate(&format!(r#"{{"model": "m", "messages": [{message}]}}"#));
            let GenerateInput::Chat(messages) = request.unwrap().input else {
                panic!("not a chat");
            };
            assert_eq!(messages[0].content, "No.", "{message}");
        }
    }

    #[test]
    fn what_the_engine_needs_is_passed_on() {
        let request = validate(&body_with(
            r#", "parallel_tool_calls": false, "reasoning_effort": "low",
               "chat_template_kwargs": {"enable_thinking": false}, "audio": null"#,
        ));
        let request = request.unwrap();
        assert_eq!(request.parallel_tool_calls, Some(false));
        assert_eq!(request.reasoning_effort.as_deref(), Some("low"));
        assert_eq!(
            request.chat_template_args.as_deref(),
            Some(r#"{"enable_thinking": false}"#)
        );
    }

    #[test]
    fn content_parts_are_joined() {
        let request = validate(
            r#"{"model": "m", "messages": [{"role": "user", "content":
               [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}"#,
        );
        let GenerateInput::Chat(messages) = request.unwrap().input else {
            panic!("not a chat");
        };
        assert_eq!(messages[0].content, "ab");
    }

    #[test]
    fn template_arguments_are_kept_as_an_object() {
        let args = |fields: &str| validate(&body_with(fields)).unwrap().chat_template_args;
        let text = args(r#", "chat_template_kwargs": {"enable_thinking": false}"#);
        assert_eq!(text.as_deref(), Some(r#"{"enable_thinking": false}"#));
        assert_eq!(args(r#", "chat_template_kwargs": {}"#), None);
        assert_eq!(args(r#", "chat_template_kwargs": null"#), None);
    }
}
