//! Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use flotilla_core::generate::RequestError;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

/// An error response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
    retry_after: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ErrorBody {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a ErrorBody,
}

impl ApiError {
    /// An error of `status`; `kind` and `code` are OpenAI's `type` and `code`.
    #[must_use]
    pub fn new(
        status: StatusCode,
        kind: &'static str,
        code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        let body = ErrorBody {
            message: message.into(),
            kind,
            param: None,
            code,
        };
        Self {
            status,
            body,
            retry_after: None,
        }
    }

    /// A bad request, naming the field where one is to blame.
    #[must_use]
    pub fn invalid(param: Option<String>, message: impl Into<String>) -> Self {
        let mut error = Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            None,
            message,
        );
        error.body.param = param;
        error
    }

    /// What was asked for does not exist.
    #[must_use]
    pub fn not_found(code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            code,
            message,
        )
    }

    /// Names `field` where a prompt was too long: only the endpoint knows what it calls it.
    pub(crate) fn prompt_in(field: &str) -> impl Fn(RequestError) -> Self {
        move |error| {
            let too_long = matches!(error, RequestError::ContextLength(_));
            let mut error = Self::from(error);
            if too_long {
                error.body.param = Some(field.to_owned());
            }
            error
        }
    }

    /// The body as JSON text, without a trailing newline.
    pub(crate) fn json(&self) -> Vec<u8> {
        // Strings only: serializing them cannot fail.
        serde_json::to_vec(&Envelope { error: &self.body }).unwrap_or_default()
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        let new = |status, kind, code| Self::new(status, kind, Some(code), message.as_str());
        match error {
            RequestError::ModelNotFound(_) | RequestError::TaskRouting(_) => Self {
                body: ErrorBody {
                    param: Some("model".into()),
                    ..Self::not_found(Some("model_not_found"), message).body
                },
                status: StatusCode::NOT_FOUND,
                retry_after: None,
            },
            RequestError::Invalid { param, .. } => Self::invalid(param, message),
            RequestError::ContextLength(_) => new(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "context_length_exceeded",
            ),
            RequestError::Overloaded { retry_after, .. } => {
                let mut error = new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "overloaded_error",
                    "overloaded",
                );
                error.retry_after = Some(retry_after);
                error
            }
            RequestError::Unavailable(_) => {
                let mut error = new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "service_unavailable_error",
                    "no_replica_ready",
                );
                error.retry_after = Some(Duration::from_secs(1));
                error
            }
            RequestError::NodeLost(_) => new(StatusCode::BAD_GATEWAY, "server_error", "node_lost"),
            RequestError::Deadline(_) => new(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout_error",
                "deadline_exceeded",
            ),
            RequestError::Engine(_) => new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "server_error",
                "engine_failed",
            ),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(self.json().into());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            let seconds = after.as_millis().div_ceil(1_000).max(1);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds as u64));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_tells_when_to_come_back() {
        let error = RequestError::Overloaded {
            message: "full".into(),
            retry_after: Duration::from_millis(1_200),
        };
        let response = ApiError::from(error).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }

    #[test]
    fn the_shape_is_openais() {
        let error = ApiError::from(RequestError::ModelNotFound("gpt".into()));
        let json: serde_json::Value = serde_json::from_slice(&error.json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"error": {
                "message": "The model 'gpt' does not exist.",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }})
        );
    }
}
