//! The OpenAI-compatible HTTP front of Flotilla.
//!
//! Owns the API's request and response shapes, their checks, server-sent events and OpenAI's
//! error shape. What answers is a [`Backend`]; this crate knows nothing of fleets, nodes or
//! engines. Start reading at [`router`], then [`chat`].

mod backend;
mod body;
mod chat;
mod clock;
mod completions;
mod embeddings;
mod error;
mod models;
mod number;
mod route;
mod router;
mod sampling;
mod sse;
mod traced;
mod usage;

pub use backend::{
    Backend, BackendAnswer, BackendError, EventStream, ModelCard, Readiness, ServedBy,
};
pub use body::read_json;
pub use error::ApiError;
pub use route::RouteBody;
pub use router::{RequestLimits, router};
