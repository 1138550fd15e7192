//! Requests to a model and the events of its answers: the types that the gateway, the controller, the
//! wire protocol and the engines share.

mod answer_limit;
mod defaults;
mod error;
mod event;
mod request;
mod route;
pub mod sampling_ranges;
mod template_args;

pub use answer_limit::AnswerLimit;
pub use defaults::{DefaultValue, EffectiveDefaults, FileDefaults};
pub use error::RequestError;
pub use event::{
    AnswerTiming, ChoiceDelta, ChoiceFinished, FinishReason, GenerateEvent, MAX_TOOL_CALLS,
    TokenLogprob, ToolCallDelta, TopLogprob, Usage,
};
pub use request::{
    ChatMessage, EmbedInput, EmbedRequest, Embeddings, GenerateInput, GenerateRequest,
    JsonSchemaFormat, OutputConstraint, SamplingParams, Tool, ToolCall, ToolChoice, UpstreamFields,
};
pub use route::{Route, RouteTarget};
pub use template_args::{
    MAX_TEMPLATE_ARGS_BYTES, MAX_TEMPLATE_ARGS_DEPTH, TemplateArgs, check_template_args,
    parse_template_args,
};
