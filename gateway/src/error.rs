//! Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use flotilla_core::generate::RequestError;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::BackendError;

/// An error response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
    retry_after: Option<Duration>,
    /// Under which name the decision that led to it is on record.
    decision: Option<Box<str>>,
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
            decision: None,
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

    /// The same, naming the field that is to blame.
    fn about(mut self, param: &str) -> Self {
        self.body.param = Some(param.to_owned());
        self
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
    pub(crate) fn prompt_in<E: Into<BackendError>>(field: &str) -> impl Fn(E) -> Self {
        move |refusal| {
            let BackendError {
                error,
                decision_id: decision,
            } = refusal.into();
            let too_long = matches!(error, RequestError::ContextLength(_));
            let mut error = Self::from(error);
            if too_long {
                error.body.param = Some(field.to_owned());
            }
            Self {
                decision: decision.map(String::into_boxed_str),
                ..error
            }
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
            RequestError::ModelNotFound(_) => {
                Self::not_found(Some("model_not_found"), message).about("model")
            }
            RequestError::TaskNotFound(_) => {
                Self::not_found(Some("task_not_found"), message).about("model")
            }
            RequestError::NoTask(_) => {
                new(StatusCode::BAD_REQUEST, "invalid_request_error", "no_task").about("model")
            }
            RequestError::ZoneForbidden(_) => new(
                StatusCode::FORBIDDEN,
                "permission_error",
                "zone_not_allowed",
            ),
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
            RequestError::Timeout(_) => new(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout_error",
                "deadline_exceeded",
            ),
            RequestError::DeadlineUnmet(_) => new(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout_error",
                "deadline_unmet",
            ),
            RequestError::LimitsUnmet(_) => new(
                StatusCode::SERVICE_UNAVAILABLE,
                "service_unavailable_error",
                "limits_unmet",
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
        // A decision's name is made of characters that headers may hold.
        if let Some(Ok(decision)) = self.decision.as_deref().map(HeaderValue::from_str) {
            headers.insert(crate::router::DECISION, decision);
        }
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
