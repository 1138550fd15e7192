//! What the errors of etcd mean.

use std::error::Error as _;

use etcd_client::Error;
use tonic::Code;

use crate::store::StoreError;

/// Converts an error of the client. Errors that only a person can mend have variants of their own.
pub(super) fn classify(error: &Error) -> StoreError {
    match error {
        // Only the status of a call without an answer has a cause.
        Error::GRpcStatus(status) => match status.source() {
            Some(cause) => StoreError::Etcd(root_cause(cause)),
            None => classify_status(status.code(), status.message()),
        },
        other => StoreError::Etcd(root_cause(other)),
    }
}

/// Returns the text of the innermost cause that is one for people, not one of the protocol.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    let text = innermost.to_string();
    if text.contains("h2 protocol") || text.contains("http2") || text.contains("transport") {
        return "the connection broke".into();
    }
    text
}

fn classify_status(code: Code, message: &str) -> StoreError {
    let contains = |text: &str| message.contains(text);
    match code {
        Code::ResourceExhausted if contains("database space exceeded") => StoreError::EtcdFull,
        Code::DataLoss => StoreError::EtcdCorrupt(message.to_owned()),
        // Permissions have just been changed: the next call uses the new ones.
        Code::InvalidArgument if contains("revision of auth store is old") => {
            StoreError::Etcd(message.to_owned())
        }
        Code::InvalidArgument if contains("too large") => {
            StoreError::EtcdRequestTooLarge(message.to_owned())
        }
        Code::Unauthenticated | Code::PermissionDenied => StoreError::EtcdAuth(message.to_owned()),
        Code::InvalidArgument if contains("auth") || contains("user") => {
            StoreError::EtcdAuth(message.to_owned())
        }
        Code::FailedPrecondition if contains("authentication is not enabled") => {
            StoreError::EtcdAuth(message.to_owned())
        }
        _ => StoreError::Etcd(message.to_owned()),
    }
}

/// Returns the error that an entry of a member's status stands for, if it is an alarm.
pub(super) fn check_alarm(entry: &str) -> Result<(), StoreError> {
    if entry.contains("alarm:NOSPACE") {
        return Err(StoreError::EtcdFull);
    }
    if entry.contains("alarm:CORRUPT") {
        return Err(StoreError::EtcdCorrupt(entry.trim().to_owned()));
    }
    Ok(())
}

/// Returns whether a message is larger than this client reads.
pub(super) fn is_message_too_large(error: &Error) -> bool {
    // The error of tonic's decoder.
    matches!(error, Error::GRpcStatus(status)
        if status.code() == Code::OutOfRange && status.message().contains("message length too large"))
}

/// Returns whether the revision that was asked for is compacted.
pub(super) fn is_compacted(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status)
        if status.code() == Code::OutOfRange && status.message().contains("compacted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outage_is_reported_without_words_of_the_protocol() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = tonic::Status::from_error(Box::new(refused));
        let broken = tonic::Status::from_error("h2 protocol error: error reading a body".into());
        for (status, text) in [
            (status, "connection refused"),
            (broken, "the connection broke"),
        ] {
            let outage = classify(&Error::GRpcStatus(status)).to_string();
            assert!(outage.contains(text), "{outage}");
        }
    }

    #[test]
    fn errors_that_a_person_must_mend_are_no_outages() {
        let full = "etcdserver: mvcc: database space exceeded";
        assert!(matches!(
            classify_status(Code::ResourceExhausted, full),
            StoreError::EtcdFull
        ));
        for (code, message) in [
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
            ),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
            (Code::PermissionDenied, "etcdserver: permission denied"),
            (Code::Unauthenticated, "etcdserver: invalid auth token"),
        ] {
            let error = classify_status(code, message);
            assert!(matches!(error, StoreError::EtcdAuth(_)), "{error:?}");
        }
        for (code, message) in [
            (Code::Unavailable, "etcdserver: no leader"),
            (Code::ResourceExhausted, "etcdserver: too many requests"),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
            ),
        ] {
            let error = classify_status(code, message);
            assert!(matches!(error, StoreError::Etcd(_)), "{error:?}");
        }
        assert!(matches!(
            check_alarm("memberID:7 alarm:NOSPACE "),
            Err(StoreError::EtcdFull)
        ));
        assert!(matches!(
            check_alarm("memberID:7 alarm:CORRUPT "),
            Err(StoreError::EtcdCorrupt(_))
        ));
        assert!(check_alarm("etcdserver: no leader").is_ok());
        let error = classify_status(Code::InvalidArgument, "etcdserver: request is too large");
        assert!(
            matches!(error, StoreError::EtcdRequestTooLarge(_)),
            "{error:?}"
        );
    }
}
