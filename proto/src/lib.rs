//! The wire contract between controllers and agents.
//!
//! Owns the messages (`flotilla/v1/*.proto`, generated at build time), their conversion to and
//! from the core's types ([`convert`]), the messages of an answer ([`answer_messages`]), desired states in several messages
//! ([`desired_state_parts`]), the mapping of errors to gRPC statuses ([`status`]), and the
//! transport: HTTP/2 over a stream that either side opened ([`transport`]), with the [`preface`]
//! that marks a reverse connection.
//!
//! Knows nothing of what either side does with a message.
//!
//! Start reading at `flotilla/v1/fleet.proto` and `flotilla/v1/inference.proto`.

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

pub mod answer_messages;
pub mod convert;
pub mod desired_state_parts;
pub mod preface;
pub mod status;
pub mod transport;
