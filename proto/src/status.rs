//! How [`RequestError`] travels as a gRPC status and comes out as the same error.

use std::time::Duration;

use flotilla_core::generate::RequestError;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// Metadata key: the field that is wrong.
const PARAM: &str = "flotilla-param";
/// Metadata key: milliseconds after which to try again.
const RETRY_AFTER: &str = "flotilla-retry-after-ms";

/// An error as a status.
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
        RequestError::Overloaded { retry_after, .. } => {
            metadata.insert(RETRY_AFTER, (retry_after.as_millis() as u64).into());
            Code::ResourceExhausted
        }
        RequestError::Unavailable(_) | RequestError::LimitsUnmet(_) => Code::FailedPrecondition,
        RequestError::DeadlineUnmet(_) => Code::Aborted,
        RequestError::NodeLost(_) => Code::Unavailable,
        RequestError::Timeout(_) => Code::DeadlineExceeded,
        RequestError::Engine(_) => Code::Internal,
    };
    Status::with_metadata(code, message, metadata)
}

/// A status as the error it was. Statuses that the transport made up mean that the node, or
/// the way to it, is lost.
#[must_use]
pub fn to_error(status: &Status, model: &str) -> RequestError {
    let message = status.message().to_owned();
    let text = |key| {
        let value = status.metadata().get(key)?;
        value.to_str().ok().map(str::to_owned)
    };
    match status.code() {
        Code::NotFound => RequestError::ModelNotFound(model.to_owned()),
        Code::InvalidArgument => RequestError::Invalid {
            param: text(PARAM),
            message,
        },
        Code::PermissionDenied => RequestError::ZoneForbidden(message),
        Code::OutOfRange => RequestError::ContextLength(message),
        Code::ResourceExhausted => {
            let millis = text(RETRY_AFTER).and_then(|millis| millis.parse().ok());
            RequestError::Overloaded {
                message,
                retry_after: Duration::from_millis(millis.unwrap_or(1_000)),
            }
        }
        Code::FailedPrecondition => RequestError::Unavailable(message),
        Code::DeadlineExceeded => RequestError::Timeout(message),
        Code::Aborted => RequestError::DeadlineUnmet(message),
        Code::Internal => RequestError::Engine(message),
        _ => RequestError::NodeLost(format!("the connection to the node was lost: {message}")),
    }
}

/// Whether a call failed before anything of it left this side: its connection was gone already.
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
    fn every_error_survives_the_wire() {
        let text = || "why".to_owned();
        for error in [
            RequestError::ModelNotFound("m".into()),
            RequestError::invalid("messages[0].role", "why"),
            RequestError::ContextLength(text()),
            RequestError::Overloaded {
                message: text(),
                retry_after: Duration::from_millis(2_500),
            },
            RequestError::Unavailable(text()),
            RequestError::Timeout(text()),
            RequestError::DeadlineUnmet(text()),
            RequestError::Engine(text()),
        ] {
            assert_eq!(to_error(&from_error(error.clone()), "m"), error);
        }
    }

    #[test]
    fn what_the_transport_reports_is_a_lost_node() {
        let error = to_error(&Status::unknown("h2 broken"), "m");
        assert!(matches!(error, RequestError::NodeLost(_)));
        assert!(error.is_retryable());
    }
}
