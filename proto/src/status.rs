//! Converts [`RequestError`] to a gRPC status and back.

use std::error::Error;
use std::time::Duration;

use flotilla_core::Joules;
use flotilla_core::energy::{EnergySources, EnergyUsage};
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

/// Metadata keys of the energy that a failed request has taken: joules, and the bit set of their sources.
const JOULES: &str = "flotilla-joules";
const JOULES_SOURCES: &str = "flotilla-joules-sources";

/// How long a client waits where a node refuses a call for their number.
const REFUSED_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Converts an error to a status. The code identifies the variant; its message and fields travel in
/// the status message and metadata.
#[must_use]
pub fn from_error(error: RequestError) -> Status {
    let message = error.to_string();
    let mut metadata = MetadataMap::new();
    let code = match error {
        RequestError::ModelNotFound(_) | RequestError::TaskNotFound(_) => Code::NotFound,
        RequestError::ZoneForbidden(_) | RequestError::OutsideScope(_) => Code::PermissionDenied,
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

/// Adds the energy that a request has taken to the status with which it fails.
pub fn set_energy(status: &mut Status, energy: EnergyUsage) {
    let metadata = status.metadata_mut();
    if let Ok(joules) = energy.joules.0.to_string().parse() {
        metadata.insert(JOULES, joules);
        metadata.insert(JOULES_SOURCES, energy.sources.bits().into());
    }
}

/// Returns the energy that a failed request has taken on its node. `None` if the node has not computed it, or if it is not
/// the node that says so.
#[must_use]
pub fn energy(status: &Status) -> Option<EnergyUsage> {
    let text = |key| status.metadata().get(key)?.to_str().ok();
    let joules: f32 = text(JOULES)?.parse().ok()?;
    let sources = text(JOULES_SOURCES)?.parse().ok()?;
    let is_valid = joules.is_finite() && joules >= 0.0;
    is_valid.then(|| EnergyUsage::new(Joules(joules), EnergySources::from_bits(sources)))
}

/// Converts a status to the error it was made from. A status that the transport created, not the
/// node, becomes [`RequestError::NodeLost`] if the connection failed, and [`RequestError::Engine`] or
/// [`RequestError::Overloaded`] if the call alone did. `model` is the model of the request.
#[must_use]
pub fn to_error(status: &Status, model: &str) -> RequestError {
    let message = status.message().to_owned();
    // Whatever code the transport has chosen, it is none of the node's.
    if let Some(error) = call_error(status) {
        return match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => RequestError::Overloaded {
                message: format!("The node takes no more calls at once: {message}."),
                retry_after: REFUSED_RETRY_AFTER,
            },
            _ => RequestError::Engine(format!("the node broke off the call: {message}")),
        };
    }
    if is_connection_error(status) {
        return node_lost(&message);
    }
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
        _ => node_lost(&message),
    }
}

fn node_lost(message: &str) -> RequestError {
    RequestError::NodeLost(format!("the connection to the node was lost: {message}"))
}

/// Returns whether the connection failed with all calls on it, rather than the node answered with the
/// status or this call alone failed.
#[must_use]
pub fn is_connection_error(status: &Status) -> bool {
    sources(status).next().is_some() && call_error(status).is_none()
}

/// Returns the error of HTTP/2 by which one call failed on a connection that goes on, such as a reset of
/// its stream.
fn call_error(status: &Status) -> Option<&h2::Error> {
    let mut errors = sources(status).filter_map(|error| error.downcast_ref::<h2::Error>());
    errors.find(|error| !error.is_io() && !error.is_go_away())
}

/// The errors of the transport that a status was made from. A status that a node sent has none.
fn sources(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Error::source(status), |error| (*error).source())
}

/// Returns whether a call failed before any of it was sent, because its connection was already
/// closed. Such a call can be retried without a risk of computing it twice.
#[must_use]
pub fn was_not_sent(status: &Status) -> bool {
    let mut errors = sources(status).filter_map(|error| error.downcast_ref::<hyper::Error>());
    errors
        .next()
        .is_some_and(|error| error.is_canceled() || error.is_closed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport;
    use crate::v1::inference_client::InferenceClient;
    use crate::v1::{EmbedRequest, GenerateRequest};
    use tokio::net::UnixStream;
    use tokio::sync::oneshot;

    /// What ends a call.
    #[derive(Debug, Clone, Copy)]
    enum CallEnd {
        /// The stream of the call is reset.
        Reset(h2::Reason),
        /// The connection ends with this reason.
        GoAway(h2::Reason),
        /// The process at the other end is gone.
        Closed,
    }

    /// Serves one call on the stream, which ends in this way: once `begun` has received that the client has
    /// the beginning of an answer, if there is one, else without any.
    async fn serve_call(stream: UnixStream, end: CallEnd, begun: Option<oneshot::Receiver<()>>) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut answer = None;
        if let Some(begun) = begun {
            let response = http::Response::builder().header("content-type", "application/grpc");
            let response = response.body(()).unwrap();
            answer = Some(respond.send_response(response, false).unwrap());
            // The connection makes progress only while it is polled.
            tokio::select! {
                received = begun => received.unwrap(),
                _ = connection.accept() => panic!("there is one call"),
            }
        }
        match end {
            CallEnd::Reset(reason) => match &mut answer {
                Some(answer) => answer.send_reset(reason),
                None => respond.send_reset(reason),
            },
            CallEnd::GoAway(reason) => connection.abrupt_shutdown(reason),
            CallEnd::Closed => return,
        }
        // The client closes the connection once it has seen the end of the call.
        while let Some(Ok(_)) = connection.accept().await {}
    }

    /// Returns the status of a call that ends in this way.
    async fn ended_call(end: CallEnd, is_begun: bool) -> Status {
        let (near, far) = UnixStream::pair().unwrap();
        let (begin, begun) = oneshot::channel();
        let served = tokio::spawn(serve_call(far, end, is_begun.then_some(begun)));
        let (channel, connection) = transport::connect(near, None).await.unwrap();
        let driven = tokio::spawn(connection);
        let mut client = InferenceClient::with_origin(channel, transport::origin());
        let status = if is_begun {
            let answer = client.generate(GenerateRequest::default()).await.unwrap();
            begin.send(()).unwrap();
            answer.into_inner().message().await.unwrap_err()
        } else {
            client.embed(EmbedRequest::default()).await.unwrap_err()
        };
        drop(client);
        served.await.unwrap();
        let _ = driven.await.unwrap();
        status
    }

    #[tokio::test]
    async fn reset_of_one_call_is_no_lost_connection_and_an_end_of_the_connection_is() {
        use h2::Reason;
        for is_begun in [false, true] {
            for reason in [
                Reason::CANCEL,
                Reason::INTERNAL_ERROR,
                Reason::INADEQUATE_SECURITY,
            ] {
                let status = ended_call(CallEnd::Reset(reason), is_begun).await;
                assert!(!is_connection_error(&status), "{status:?}");
                let error = to_error(&status, "m");
                assert!(matches!(error, RequestError::Engine(_)), "{error:?}");
            }
            for end in [
                CallEnd::GoAway(Reason::INTERNAL_ERROR),
                CallEnd::GoAway(Reason::ENHANCE_YOUR_CALM),
                CallEnd::Closed,
            ] {
                let status = ended_call(end, is_begun).await;
                assert!(is_connection_error(&status), "{end:?}: {status:?}");
                let error = to_error(&status, "m");
                assert!(matches!(error, RequestError::NodeLost(_)), "{error:?}");
            }
        }
        let refused = ended_call(CallEnd::Reset(Reason::REFUSED_STREAM), false).await;
        assert!(to_error(&refused, "m").is_retryable());
        assert!(!is_connection_error(&refused) && !was_not_sent(&refused));
    }

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
    fn energy_of_a_failed_request_travels_with_its_error() {
        let mut status = from_error(RequestError::Engine("broken".into()));
        assert_eq!(energy(&status), None);
        let spent = EnergyUsage::new(Joules(1.5), EnergySources::ESTIMATE);
        set_energy(&mut status, spent);
        assert_eq!(energy(&status), Some(spent));
        let nonsense = EnergyUsage::new(Joules(f32::NAN), EnergySources::ESTIMATE);
        set_energy(&mut status, nonsense);
        assert_eq!(energy(&status), None);
    }

    #[test]
    fn transport_error_is_a_lost_node() {
        let error = to_error(&Status::unknown("h2 broken"), "m");
        assert!(matches!(error, RequestError::NodeLost(_)));
        assert!(error.is_retryable());
    }
}
