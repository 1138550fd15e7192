//! Converts [`RequestError`] to a gRPC status and back.

use std::time::Duration;

use flotilla_core::generate::RequestError;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// Metadata key of the invalid field.
const PARAM: &str = "flotilla-param";
/// Metadata key that tells a request with too many bytes from one with too many tokens.
const TOO_LARGE: &str = "flotilla-too-large";
/// Metadata key that tells a server that cannot be reached from one that failed.
const UNREACHABLE: &str = "flotilla-upstream-unreachable";
/// Metadata key of the time after which to retry, in milliseconds.
const RETRY_AFTER_MS: &str = "flotilla-retry-after-ms";

/// Converts an error to a status. The code identifies the variant; its message and fields travel in
/// the status message and metadata.
#[must_use]
pub fn from_error(error: RequestError) -> Status {
    let message = error.to_string();
    let mut metadata = MetadataMap::new();
    let code = match error {
        RequestError::ModelNotFound(_) | RequestError::TaskNotFound(_) => Code::NotFound,
        RequestError::ZoneForbidden(_) => Code::PermissionDenied,
        RequestError::NoTask(_) => Code::InvalidArgument,
        RequestError::Invalid { param, .. } => {
            if let Some(value) = param.and_then(|param| param.parse().ok()) {
                metadata.insert(PARAM, value);
            }
            Code::InvalidArgument
        }
        RequestError::ContextLength(_) => Code::OutOfRange,
        RequestError::TooLarge(_) => {
            metadata.insert(TOO_LARGE, MetadataValue::from_static("true"));
            Code::OutOfRange
        }
        RequestError::Overloaded { retry_after, .. } => {
            metadata.insert(RETRY_AFTER_MS, (retry_after.as_millis() as u64).into());
            Code::ResourceExhausted
        }
        RequestError::Unavailable { retry_after, .. } => {
            if let Some(retry_after) = retry_after {
                metadata.insert(RETRY_AFTER_MS, (retry_after.as_millis() as u64).into());
            }
            Code::FailedPrecondition
        }
        RequestError::NotReady(_) | RequestError::LimitsUnmet(_) => Code::FailedPrecondition,
        RequestError::DeadlineUnmet(_) => Code::Aborted,
        RequestError::NodeLost(_) => Code::Unavailable,
        RequestError::Timeout(_) | RequestError::AnswerTimeout(_) => Code::DeadlineExceeded,
        RequestError::Engine(_) => Code::Internal,
        RequestError::Upstream(_) => Code::DataLoss,
        RequestError::UpstreamUnreachable(_) => {
            metadata.insert(UNREACHABLE, MetadataValue::from_static("true"));
            Code::DataLoss
        }
    };
    Status::with_metadata(code, message, metadata)
}

/// Converts a status to the error it was made from. A status that the transport created, not the
/// node, becomes [`RequestError::NodeLost`]. `model` is the model of the request.
#[must_use]
pub fn to_error(status: &Status, model: &str) -> RequestError {
    let message = status.message().to_owned();
    let text = |key| {
        let value = status.metadata().get(key)?;
        value.to_str().ok().map(str::to_owned)
    };
    let retry_after = || {
        let millis = text(RETRY_AFTER_MS)?.parse().ok()?;
        Some(Duration::from_millis(millis))
    };
    match status.code() {
        Code::NotFound => RequestError::ModelNotFound(model.to_owned()),
        Code::InvalidArgument => RequestError::Invalid {
            param: text(PARAM),
            message,
        },
        Code::PermissionDenied => RequestError::ZoneForbidden(message),
        Code::OutOfRange if status.metadata().contains_key(TOO_LARGE) => {
            RequestError::TooLarge(message)
        }
        Code::OutOfRange => RequestError::ContextLength(message),
        Code::ResourceExhausted => RequestError::Overloaded {
            message,
            retry_after: retry_after().unwrap_or(Duration::from_secs(1)),
        },
        Code::FailedPrecondition => RequestError::Unavailable {
            message,
            retry_after: retry_after(),
        },
        Code::DeadlineExceeded => RequestError::Timeout(message),
        Code::Aborted => RequestError::DeadlineUnmet(message),
        Code::Internal => RequestError::Engine(message),
        Code::DataLoss if status.metadata().contains_key(UNREACHABLE) => {
            RequestError::UpstreamUnreachable(message)
        }
        Code::DataLoss => RequestError::Upstream(message),
        _ => RequestError::NodeLost(format!("the connection to the node was lost: {message}")),
    }
}

/// Returns whether the connection failed, rather than the node answered with the status.
#[must_use]
pub fn is_connection_error(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// Returns whether a call failed before any of it was sent, because its connection was already
/// closed. Such a call can be retried without a risk of computing it twice.
#[must_use]
pub fn was_not_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return error.is_canceled() || error.is_closed();
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_equal_after_a_round_trip() {
        let text = || "reason".to_owned();
        for error in [
            RequestError::ModelNotFound("m".into()),
            RequestError::invalid("messages[0].role", "reason"),
            RequestError::ContextLength(text()),
            RequestError::TooLarge(text()),
            RequestError::Overloaded {
                message: text(),
                retry_after: Duration::from_millis(2_500),
            },
            RequestError::unavailable(text()),
            RequestError::Unavailable {
                message: text(),
                retry_after: Some(Duration::from_secs(7)),
            },
            RequestError::Timeout(text()),
            RequestError::DeadlineUnmet(text()),
            RequestError::Engine(text()),
            RequestError::Upstream(text()),
            RequestError::UpstreamUnreachable(text()),
        ] {
            assert_eq!(to_error(&from_error(error.clone()), "m"), error);
        }
    }

    #[test]
    fn transport_error_is_a_lost_node() {
        let error = to_error(&Status::unknown("h2 broken"), "m");
        assert!(matches!(error, RequestError::NodeLost(_)));
        assert!(error.is_retryable());
    }
}
