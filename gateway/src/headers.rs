//! The response headers `x-flotilla-*`.

use axum::response::Response;
use flotilla_core::TaskName;
use http::{HeaderName, HeaderValue};

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
