//! A server's failures as request errors.

use std::time::{Duration, SystemTime};

use flotilla_core::generate::RequestError;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION, RETRY_AFTER};
use serde_json::Value;

/// The delay before a retry when a server that is full states none.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest delay before a retry that is passed on.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);
/// The most bytes that are read of an error.
pub(super) const MAX_ERROR_BYTES: usize = 64 << 10;
/// The most characters of a server's text in an error.
const MAX_MESSAGE_CHARS: usize = 1_000;

/// Translates the status, the headers and the beginning of the body of a response that is no success.
pub(super) fn from_status(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> RequestError {
    let error = &parse(body);
    let said = message(error);
    // Nobody but the model's owner knows of the server: the text says who speaks.
    let message = format!("The server answered {status}: {said}");
    let retry_after = retry_after(headers, SystemTime::now());
    match status {
        StatusCode::TOO_MANY_REQUESTS => RequestError::Overloaded {
            message,
            retry_after: retry_after.unwrap_or(DEFAULT_RETRY_AFTER),
        },
        StatusCode::SERVICE_UNAVAILABLE => RequestError::Unavailable {
            message,
            retry_after,
        },
        StatusCode::PAYLOAD_TOO_LARGE => RequestError::TooLarge(message),
        StatusCode::BAD_REQUEST if is_context_overflow(error, &said) => {
            RequestError::ContextLength(message)
        }
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => RequestError::Invalid {
            param: error
                .get("param")
                .and_then(Value::as_str)
                .map(str::to_owned),
            message,
        },
        _ if status.is_redirection() => RequestError::Upstream(format!(
            "The server redirects to {}: set spec.options.url to where it answers.",
            headers.get(LOCATION).map_or("nowhere".into(), |location| {
                clip(&String::from_utf8_lossy(location.as_bytes()))
            })
        )),
        _ => RequestError::Upstream(message),
    }
}

/// Parses an error. A body that is no JSON is a text.
fn parse(body: &[u8]) -> Value {
    let mut body = serde_json::from_slice(body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()));
    match body.get_mut("error").map(Value::take) {
        None | Some(Value::Null) => body,
        Some(error) => error,
    }
}

/// Whether the prompt does not fit into the server's context. OpenAI names a code, llama.cpp's server a
/// type; vLLM has only a text.
fn is_context_overflow(error: &Value, message: &str) -> bool {
    let is = |field: &str, name| error.get(field).and_then(Value::as_str) == Some(name);
    is("code", "context_length_exceeded")
        || is("type", "exceed_context_size_error")
        || message.contains("maximum context length")
}

/// Returns the delay that the headers state, in seconds or as a date. A date in the past is no delay.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let delay = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?;
            at.duration_since(now).unwrap_or_default()
        }
    };
    Some(delay.min(MAX_RETRY_AFTER))
}

/// Returns the message of an error, or the whole value as text if it has none, cut to a bearable length.
fn message(error: &Value) -> String {
    let text = ["message", "detail"]
        .into_iter()
        .find_map(|field| error.get(field))
        .unwrap_or(error);
    match text.as_str() {
        Some("") => "no reason".to_owned(),
        Some(text) => clip(text),
        None => clip(&text.to_string()),
    }
}

/// Cuts a server's text to [`MAX_MESSAGE_CHARS`].
fn clip(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The error of an answer that is none: says what the server sent.
pub(super) fn invalid(what: &str) -> RequestError {
    RequestError::Upstream(clip(&format!("The server's answer {what}.")))
}

/// The error when an answer ends before it is complete.
pub(super) fn interrupted(reason: &str) -> RequestError {
    RequestError::Upstream(format!("The server's answer was interrupted: {reason}."))
}

/// The error when a server says within its answer that it failed, as JSON or as a text.
pub(super) fn failed(error: &str) -> RequestError {
    let beginning = &error.as_bytes()[..error.len().min(MAX_ERROR_BYTES)];
    let message = message(&parse(beginning));
    RequestError::Upstream(format!("The server failed: {message}"))
}

/// The text when a server cannot be reached.
pub(super) fn unreachable(url: &str, error: &reqwest::Error) -> String {
    format!("{url} cannot be reached: {}", root_cause(error))
}

/// Returns the innermost cause: the errors that reqwest wraps around it add nothing.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translate(status: u16, headers: &[(&'static str, &str)], body: &str) -> RequestError {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        from_status(StatusCode::from_u16(status).unwrap(), &map, body.as_bytes())
    }

    #[test]
    fn refusals_are_translated_by_their_status() {
        for body in [r#"{"error": {"message": "no", "param": "top_k"}}"#] {
            for (status, text) in [(400, "400 Bad Request"), (422, "422 Unprocessable Entity")] {
                let message = format!("The server answered {text}: no");
                assert_eq!(
                    translate(status, &[], body),
                    RequestError::invalid("top_k", message)
                );
            }
        }
        for (status, body, text) in [
            (401, r#"{"error": "no key"}"#, "401 Unauthorized: no key"),
            (403, r#"{"detail": "not you"}"#, "403 Forbidden: not you"),
            (
                404,
                r#"{"error": {"message": "no model"}}"#,
                "404 Not Found: no model",
            ),
            (500, "oops", "500 Internal Server Error: oops"),
            (502, "", "502 Bad Gateway: no reason"),
        ] {
            let expected = RequestError::Upstream(format!("The server answered {text}"));
            assert_eq!(translate(status, &[], body), expected);
        }
        let redirect = translate(307, &[("location", "http://elsewhere/v1")], "");
        assert!(redirect.to_string().contains("http://elsewhere/v1"));
        assert!(matches!(redirect, RequestError::Upstream(_)));
        assert_eq!(
            translate(413, &[], r#"{"error": "long"}"#),
            RequestError::TooLarge("The server answered 413 Payload Too Large: long".into())
        );
    }

    #[test]
    fn prompt_beyond_the_servers_context_is_recognised() {
        for body in [
            r#"{"error": {"message": "long", "code": "context_length_exceeded"}}"#,
            r#"{"error": {"code": 400, "message": "long", "type": "exceed_context_size_error"}}"#,
            r#"{"message": "This model's maximum context length is 8 tokens."}"#,
        ] {
            let error = translate(400, &[], body);
            assert!(matches!(error, RequestError::ContextLength(_)), "{error:?}");
        }
    }

    #[test]
    fn time_to_retry_is_read_in_seconds_and_as_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("7", Some(7.0)),
            ("0.5", Some(0.5)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60.0)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0.0)),
            ("99999999999", Some(86_400.0)),
            ("-1", None),
            ("soon", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            let delay = retry_after(&headers, now).map(|delay| delay.as_secs_f64());
            assert_eq!(delay, seconds, "{text}");
        }
        let unavailable = translate(503, &[("retry-after", "7")], "{}");
        let RequestError::Unavailable { retry_after, .. } = unavailable else {
            panic!("{unavailable:?}");
        };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
        let full = translate(429, &[], "{}");
        let RequestError::Overloaded { retry_after, .. } = full else {
            panic!("{full:?}");
        };
        assert_eq!(retry_after, DEFAULT_RETRY_AFTER);
    }

    #[test]
    fn long_texts_are_cut() {
        let error = translate(500, &[], &"ä".repeat(50_000));
        assert!(error.to_string().chars().count() < 1_100);
    }
}
