//! The response headers `x-flotilla-*`.

use axum::response::Response;
use flotilla_core::TaskName;
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use crate::ServedBy;

/// Id of the routing decision, for `flotilla explain`. Sent with errors too.
pub(crate) const DECISION: HeaderName = HeaderName::from_static("x-flotilla-decision");
/// The model that answered.
const MODEL: HeaderName = HeaderName::from_static("x-flotilla-model");
/// The node that answered.
const NODE: HeaderName = HeaderName::from_static("x-flotilla-node");
/// The task that the model was chosen for.
const TASK: HeaderName = HeaderName::from_static("x-flotilla-task");
/// Number of replicas the request was sent to.
const ATTEMPTS: HeaderName = HeaderName::from_static("x-flotilla-attempts");

/// All headers of responses.
pub(crate) const RESPONSE: [HeaderName; 5] = [DECISION, MODEL, NODE, TASK, ATTEMPTS];

/// What the headers say, for a stream whose headers were sent before it was known.
#[derive(Serialize)]
pub(crate) struct ServedByJson<'a> {
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'a str>,
    node: &'a str,
    attempts: u32,
    decision: &'a str,
}

impl<'a> From<&'a ServedBy> for ServedByJson<'a> {
    fn from(served_by: &'a ServedBy) -> Self {
        Self {
            model: served_by.model.as_str(),
            task: served_by.task.as_ref().map(TaskName::as_str),
            node: served_by.node.as_str(),
            attempts: served_by.attempts,
            decision: &served_by.decision_id,
        }
    }
}

/// Adds the headers that say which replica answered.
pub(crate) fn add_served_by(response: &mut Response, served_by: &ServedBy) {
    let attempts = HeaderValue::from(served_by.attempts);
    response.headers_mut().insert(ATTEMPTS, attempts);
    let texts = [
        (MODEL, Some(served_by.model.as_str())),
        (TASK, served_by.task.as_ref().map(TaskName::as_str)),
        (NODE, Some(served_by.node.as_str())),
        (DECISION, Some(served_by.decision_id.as_str())),
    ];
    for (name, text) in texts {
        // Resource names and decision ids hold only characters that are valid in headers.
        if let Some(Ok(value)) = text.map(HeaderValue::from_str) {
            response.headers_mut().insert(name, value);
        }
    }
}
