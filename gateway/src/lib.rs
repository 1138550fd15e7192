//! The OpenAI-compatible HTTP API of Flotilla.
//!
//! Owns the request and response shapes of the API, their validation, server-sent events and
//! OpenAI's error shape. A [`Backend`] produces the answers; this crate knows nothing of fleets,
//! nodes or engines.
//!
//! Start reading at [`router`] and [`add_edge`], then at the module of one endpoint: `chat`, `completions`,
//! `embeddings` or `models`. The endpoints share the other modules and not each other's.

mod access;
mod api_routes;
mod backend;
mod chat;
mod chunk;
mod collected_answer;
mod completion_id;
mod completions;
mod cors;
mod decompression;
mod edge;
mod embeddings;
mod error;
mod extra_fields;
mod extract;
mod headers;
mod json_body;
mod json_response;
mod logprob;
mod models;
mod paced_body;
mod prompt_inputs;
mod range;
mod route_body;
mod router;
mod routing_fields;
mod sampling;
mod sse;
mod stream_options;
mod text_or;
mod trace_service;
mod usage;

pub use access::{AccessControl, Caller};
pub use api_routes::{ApiRoutes, Operation};
pub use backend::{
    Backend, BackendAnswer, BackendError, EventStream, ModelCard, Readiness, ServedBy,
};
pub use cors::{CorsOrigin, CorsOriginError, is_listed_origin};
pub use edge::add_edge;
pub use error::ApiError;
pub use extract::{ApiPath, ApiQuery};
pub use json_body::read_json;
pub use paced_body::{PacedBody, SlowBody};
pub use route_body::{RouteBody, RouteQuery};
pub use router::{ApiConfig, router};
