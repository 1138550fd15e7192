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
    ChatMessage, EmbedInput, EmbedRequest, Embeddings, GenerateInput, GenerateRequest,
    JsonSchemaFormat, OutputConstraint, SamplingParams, Tool, ToolCall, ToolChoice, UpstreamFields,
};
pub use route::{Route, RouteTarget};
