//! The body of a dry run: a request for which only the route is computed.

use flotilla_core::generate::{GenerateInput, RequestError, Route};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::Caller;
use crate::chat::{MessageField, validate_messages};
use crate::routing_fields::{RoutingFields, parse_route};

/// The body of a request for a routing decision. It is the body of a chat or completion request,
/// of which only the fields that routing uses are read.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct RouteBody {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    messages: Option<Vec<MessageField>>,
    #[serde(default, alias = "text", alias = "input")]
    prompt: Option<String>,
    #[serde(default)]
    flotilla: Option<RoutingFields>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    max_completion_tokens: Option<u32>,
}

/// A validated request for a routing decision.
#[derive(Debug, Clone)]
pub struct RouteQuery {
    /// The route that the request asks for.
    pub route: Route,
    /// The conversation or text.
    pub input: GenerateInput,
    /// Maximum number of tokens of the answer. `None`: not limited by the request.
    pub max_tokens: Option<u32>,
}

impl RouteBody {
    /// Validates the body and the routing headers. Without a `model` the route is `auto`.
    ///
    /// # Errors
    /// The error that the request itself would get, or [`RequestError::Invalid`] unless it has
    /// exactly one of `messages` and `prompt`.
    pub fn validate(self, caller: &Caller) -> Result<RouteQuery, RequestError> {
        let max_tokens = self.max_completion_tokens.or(self.max_tokens);
        let model = self.model.as_deref().unwrap_or("auto");
        let route = parse_route(model, self.flotilla, caller)?;
        let input = match (self.messages, self.prompt) {
            (Some(messages), None) => GenerateInput::Chat(validate_messages(messages)?),
            (None, Some(prompt)) => GenerateInput::Text(prompt),
            _ => {
                return Err(RequestError::invalid(
                    "messages",
                    "Send either 'messages' or 'prompt'.",
                ));
            }
        };
        Ok(RouteQuery {
            route,
            input,
            max_tokens,
        })
    }
}
