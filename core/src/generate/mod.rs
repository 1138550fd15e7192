//! What a request to a model consists of, and what comes back: the vocabulary that the
//! gateway, the controller, the wire and the engines share.

mod error;
mod event;
mod request;
mod route;

pub use error::RequestError;
pub use event::{
    Delta, Event, FinishReason, Finished, Timing, TokenAlternative, TokenLogprob, ToolCallDelta,
    Usage,
};
pub use request::{
    Constraint, EmbedRequest, Embeddings, GenerateRequest, Input, Message, Sampling, Tool,
    ToolCall, ToolChoice,
};
pub use route::{Route, Target};
