//! A server's failures as request errors.

use std::time::Duration;

use flotilla_core::generate::RequestError;
use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde_json::Value;

/// The retry delay when a server states none, or not in seconds.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Translates a response whose status is not a success.
pub(super) async fn from_response(response: Response) -> RequestError {
    let status = response.status();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map_or(DEFAULT_RETRY_AFTER, Duration::from_secs);
    let text = response.text().await.unwrap_or_default();
    let body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
    let error = body.get("error").unwrap_or(&body);
    let message = message(error);
    let code = error.get("code").and_then(Value::as_str);
    match status {
        StatusCode::TOO_MANY_REQUESTS => RequestError::Overloaded {
            message,
            retry_after,
        },
        StatusCode::SERVICE_UNAVAILABLE => RequestError::Unavailable {
            message,
            retry_after: Some(retry_after),
        },
        StatusCode::BAD_REQUEST if code == Some("context_length_exceeded") => {
            RequestError::ContextLength(message)
        }
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => RequestError::Invalid {
            param: error
                .get("param")
                .and_then(Value::as_str)
                .map(str::to_owned),
            message,
        },
        _ => RequestError::Engine(format!("the server answered {status}: {message}")),
    }
}

/// Returns the message of an error object, or the whole value as text if it has none.
pub(super) fn message(error: &Value) -> String {
    let text = error.get("message").unwrap_or(error);
    text.as_str()
        .map_or_else(|| text.to_string(), str::to_owned)
}

/// The error when a streamed answer ends before it is complete.
pub(super) fn interrupted(reason: &str) -> RequestError {
    RequestError::NodeLost(format!("the server's answer was interrupted: {reason}"))
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
