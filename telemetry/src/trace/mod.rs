//! Spans of requests.
//!
//! A span is the current OpenTelemetry context of the thread while a future made with
//! [`RequestSpan::instrument`] is polled. A request that is not sampled has no span; every operation
//! on it then costs only a read of a thread-local.

mod propagation;
mod request_span;
#[cfg(test)]
mod tests;
mod tracer;

pub use request_span::RequestSpan;
pub(crate) use request_span::current_ids;
pub use tracer::Tracer;
