//! The wire contract between controllers and agents.
//!
//! Owns the messages (`flotilla/v1/*.proto`, generated at build), their conversions to and
//! from the core's types ([`convert`]), how errors travel ([`status`]), and the transport:
//! HTTP/2 over a stream whichever side dialled it ([`transport`]), with the [`preface`] that
//! says which way round a connection is meant.
//!
//! Knows nothing of what either side does with a message.

/// Generated messages and services of the package `flotilla.v1`.
#[allow(
    clippy::all,
    clippy::unwrap_used,
    unused_qualifications,
    unreachable_pub,
    missing_docs
)]
pub mod v1 {
    tonic::include_proto!("flotilla.v1");
}

pub mod convert;
pub mod preface;
pub mod status;
pub mod transport;
