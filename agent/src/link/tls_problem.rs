//! What is wrong when TLS with a controller fails.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

/// Why there is no connection with TLS to a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TlsProblem {
    #[error(
        "links to this controller have no TLS, and this node has enrolled in a fleet or has a token: is the controller started with --secret-file?"
    )]
    NoTls,
    #[error(
        "this is the HTTPS port of a controller or another server with TLS: --join takes the link port of a controller, 7070 unless its --link says otherwise"
    )]
    OtherPort,
    #[error(
        "it is no controller of this node's fleet: its certificate is of another authority. Check --join; to move the node to that fleet, enrol it there with a token of `flotilla token create`"
    )]
    OtherAuthority,
    #[error(
        "its certificate has expired or is not valid yet: check the clocks of this machine and of the controller"
    )]
    ServerExpired,
    #[error(
        "it does not accept this node's certificate: it is a controller of another fleet, or one whose authority was replaced. Enrol the node again with a token of `flotilla token create --node NAME`"
    )]
    Rejected,
    #[error(
        "it says that this node's certificate has expired: check the clocks of this machine and of the controller"
    )]
    ClientExpired,
}

impl TlsProblem {
    /// Finds the problem in the chain of an error's causes. `None`: it is none of TLS.
    pub(super) fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return Self::classify(error);
            }
            // The error in one of the operating system is not its source.
            let inner = error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref);
            if let Some(found) = inner.and_then(|inner| Self::find(inner)) {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }

    fn classify(error: &rustls::Error) -> Option<Self> {
        use AlertDescription as Alert;
        Some(match error {
            rustls::Error::InvalidMessage(_) => Self::NoTls,
            rustls::Error::NoApplicationProtocol
            | rustls::Error::AlertReceived(Alert::NoApplicationProtocol) => Self::OtherPort,
            rustls::Error::InvalidCertificate(problem) => match problem {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::ServerExpired,
                _ => Self::OtherAuthority,
            },
            rustls::Error::AlertReceived(Alert::CertificateExpired) => Self::ClientExpired,
            rustls::Error::AlertReceived(
                Alert::UnknownCA
                | Alert::BadCertificate
                | Alert::CertificateUnknown
                | Alert::CertificateRevoked
                | Alert::DecryptError
                | Alert::AccessDenied,
            ) => Self::Rejected,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_found_below_other_errors() {
        let alert = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        let nested = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, alert));
        assert_eq!(TlsProblem::find(&nested), Some(TlsProblem::Rejected));
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert_eq!(TlsProblem::find(&unknown), Some(TlsProblem::OtherAuthority));
        assert_eq!(TlsProblem::find(&io::Error::other("x")), None);
    }
}
