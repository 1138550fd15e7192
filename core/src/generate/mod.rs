//! Requests to a model and the events of its answers: the types that the gateway, the controller, the
//! wire protocol and the engines share.

mod error;
mod event;
mod request;
mod route;

pub use error::RequestError;
pub use event::{
    AnswerTiming, ChoiceDelta, ChoiceFinished, FinishReason, GenerateEvent, TokenLogprob,
    ToolCallDelta, TopLogprob, Usage,
};
pub use request::{
    ChatMessage, EmbedRequest, Embeddings, GenerateInput, GenerateRequest, OutputConstraint,
    SamplingParams, Tool, ToolCall, ToolChoice,
};
pub use route::{Route, RouteTarget};
