//! Error responses in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use flotilla_core::generate::RequestError;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{BackendError, headers};

/// The `Retry-After` of a controller that does not know the desired state yet.
pub(crate) const NOT_READY_RETRY: Duration = Duration::from_secs(1);

/// An error response of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
    retry_after: Option<Duration>,
    /// Id of the routing decision, sent as the header `x-flotilla-decision`.
    decision_id: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(crate) struct ErrorBody {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ErrorBody {
    /// The error of a server that cannot answer requests yet.
    pub(crate) fn not_ready(message: String) -> Self {
        Self {
            message,
            kind: "service_unavailable_error",
            param: None,
            code: Some("not_ready"),
        }
    }
}

/// The body of an error response.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ErrorResponse")]
pub(crate) struct ErrorEnvelope<'a> {
    error: &'a ErrorBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    flotilla: Option<LateErrorJson<'a>>,
}

impl ApiError {
    /// Creates an error with the HTTP `status`; `kind` and `code` are OpenAI's `type` and `code`.
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
            decision_id: None,
        }
    }

    /// Tells the client when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Creates a 400 response. `param` is the invalid field, if it is known.
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

    /// Sets the invalid field.
    fn with_param(mut self, param: &str) -> Self {
        self.body.param = Some(param.to_owned());
        self
    }

    /// Creates the 500 response for a defect of the server.
    #[must_use]
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            Some("internal_error"),
            "The server failed to handle the request because of an internal error; its log has the details.",
        )
    }

    /// Creates a 404 response.
    #[must_use]
    pub fn not_found(code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            code,
            message,
        )
    }

    /// Returns a conversion from a backend's error. For a prompt that is too long, the response
    /// names the field `prompt_param`, which differs between endpoints.
    pub(crate) fn with_prompt_param<E: Into<BackendError>>(
        prompt_param: &str,
    ) -> impl Fn(E) -> Self {
        move |backend_error| {
            let backend_error = backend_error.into();
            let too_long = matches!(backend_error.error, RequestError::ContextLength(_));
            let mut error = Self::from(backend_error);
            if too_long {
                error.body.param = Some(prompt_param.to_owned());
            }
            error
        }
    }

    /// Returns the body as JSON text without a trailing line break.
    pub(crate) fn json(&self) -> Vec<u8> {
        self.to_json(None)
    }

    /// Returns the body of the last frame of a stream that failed. Besides the error it has what an error
    /// response would have said in its status and headers.
    pub(crate) fn frame_json(&self) -> Vec<u8> {
        self.to_json(Some(LateErrorJson {
            status: self.status.as_u16(),
            decision: self.decision_id.as_deref(),
            retry_after: self.retry_after_seconds(),
        }))
    }

    fn to_json(&self, flotilla: Option<LateErrorJson<'_>>) -> Vec<u8> {
        let error = &self.body;
        // Cannot fail: it holds only strings and numbers.
        serde_json::to_vec(&ErrorEnvelope { error, flotilla }).unwrap_or_default()
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        let millis = self.retry_after?.as_millis();
        u64::try_from(millis.div_ceil(1_000).max(1)).ok()
    }
}

/// What the status and the headers of an error response say, for a stream whose headers were sent before.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "LateError")]
struct LateErrorJson<'a> {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl From<BackendError> for ApiError {
    fn from(BackendError { error, decision_id }: BackendError) -> Self {
        Self {
            decision_id: decision_id.map(String::into_boxed_str),
            ..Self::from(error)
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = error.to_string();
        let new = |status, kind, code| Self::new(status, kind, Some(code), message.as_str());
        match error {
            RequestError::ModelNotFound(_) => {
                Self::not_found(Some("model_not_found"), message).with_param("model")
            }
            RequestError::TaskNotFound(_) => {
                Self::not_found(Some("task_not_found"), message).with_param("model")
            }
            RequestError::NoTask(_) => {
                new(StatusCode::BAD_REQUEST, "invalid_request_error", "no_task").with_param("model")
            }
            RequestError::ZoneForbidden(_) => new(
                StatusCode::FORBIDDEN,
                "permission_error",
                "zone_not_allowed",
            ),
            RequestError::OutsideScope(_) => new(
                StatusCode::FORBIDDEN,
                "permission_error",
                "outside_key_scope",
            )
            .with_param("model"),
            RequestError::Invalid { param, .. } => Self::invalid(param, message),
            RequestError::ContextLength(_) => new(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "context_length_exceeded",
            ),
            RequestError::TooLarge(_) => new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "invalid_request_error",
                "request_too_large",
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
            RequestError::NotReady(_) => Self {
                status: StatusCode::SERVICE_UNAVAILABLE,
                body: ErrorBody::not_ready(message),
                retry_after: Some(NOT_READY_RETRY),
                decision_id: None,
            },
            RequestError::Unavailable { retry_after, .. } => {
                let mut error = new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "service_unavailable_error",
                    "no_replica_ready",
                );
                error.retry_after = retry_after;
                error
            }
            RequestError::NodeLost(_) => new(StatusCode::BAD_GATEWAY, "server_error", "node_lost"),
            RequestError::Timeout(_) => new(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout_error",
                "deadline_exceeded",
            ),
            RequestError::AnswerTimeout(_) => new(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout_error",
                "answer_timeout",
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
            RequestError::Upstream(_) | RequestError::UpstreamUnreachable(_) => {
                new(StatusCode::BAD_GATEWAY, "server_error", "upstream_failed")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(self.json().into());
        *response.status_mut() = self.status;
        let header_map = response.headers_mut();
        header_map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // Decision ids hold only characters that are valid in headers.
        if let Some(Ok(id)) = self.decision_id.as_deref().map(HeaderValue::from_str) {
            header_map.insert(headers::DECISION, id);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            header_map.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_seconds() {
            header_map.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_error_has_a_retry_after_header() {
        let error = RequestError::Overloaded {
            message: "full".into(),
            retry_after: Duration::from_millis(1_200),
        };
        let response = ApiError::from(error).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }

    #[test]
    fn error_has_the_shape_of_openai() {
        let error = ApiError::from(RequestError::ModelNotFound("gpt".into()));
        let json: serde_json::Value = serde_json::from_slice(&error.json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"error": {
                "message": "The model 'gpt' does not exist: `GET /v1/models` lists those that do.",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }})
        );
    }
}
