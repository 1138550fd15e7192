//! Resources in request bodies, and lists of resources in replies.

use axum::body::Body;
use flotilla_core::spec::Resource;
use flotilla_gateway::{ApiError, read_json};
use serde::Serialize;
use serde_json::Value;

use crate::fleet::{FleetView, JoinRefusal};

/// Largest request body with a resource, in bytes. It is checked by [`read_json`] instead of a layer
/// of tower-http, as that layer answers in plain text and this API in OpenAI's error shape.
pub(super) const MAX_RESOURCE: usize = 1 << 20;

/// Reads a resource from a request body. Returns it with the document as the client wrote it.
///
/// # Errors
/// When it is not valid, or not of the `kind` and `name` in the request's path.
pub(super) async fn read_resource(
    kind: &str,
    name: &str,
    body: Body,
) -> Result<(Resource, Value), ApiError> {
    let document: Value = read_json(body, MAX_RESOURCE).await?;
    let resource = Resource::from_json(document.clone())
        .map_err(|errors| ApiError::invalid(None, errors.to_string()))?;
    if resource.kind() != kind {
        return Err(ApiError::invalid(
            Some("kind".into()),
            format!(
                "The resource is a {}, but the path is for a {kind}.",
                resource.kind()
            ),
        ));
    }
    if resource.name() != name {
        return Err(ApiError::invalid(
            Some("metadata.name".into()),
            format!(
                "The resource is named '{}', but the path names '{name}'.",
                resource.name()
            ),
        ));
    }
    Ok((resource, document))
}

/// A list of resources in a reply.
#[derive(Debug, Serialize)]
pub(super) struct ResourceList<T> {
    items: Vec<T>,
    /// Conditions that make the list less than current, see [`notes`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

impl<T> ResourceList<T> {
    /// The `items` of a view.
    pub(super) fn new(view: &FleetView, items: impl Iterator<Item = T>) -> Self {
        Self {
            items: items.collect(),
            notes: notes(view),
        }
    }
}

/// Notes for users, such as that the store does not answer and changes have to wait, or that a node was
/// refused.
pub(super) fn notes(view: &FleetView) -> Vec<String> {
    let hold = view.placement_hold.as_ref().map(ToString::to_string);
    let refusals = view.refusals.iter().map(|refusal| {
        let JoinRefusal {
            node,
            address,
            reason,
        } = refusal;
        format!("the node '{node}' at {address} was refused: {reason}")
    });
    let store_error = view.store_error.clone().into_iter();
    store_error.chain(hold).chain(refusals).collect()
}
