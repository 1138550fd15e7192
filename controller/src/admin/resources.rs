//! Resources in request bodies, and lists of resources in replies.

use axum::body::Body;
use flotilla_core::artifact::MAX_MANIFEST_BYTES;
use flotilla_core::spec::{ModelSource, Resource};
use flotilla_dispatch::TaskView;
use flotilla_gateway::{ApiError, read_json};
use serde::Serialize;
use serde_json::Value;

use crate::fleet::FleetView;
use crate::store::MAX_VALUE_BYTES;

/// Largest request body with a resource, in bytes. It is checked by [`read_json`] instead of a layer
/// of tower-http, as that layer answers in plain text and this API in OpenAI's error shape.
pub(super) const MAX_RESOURCE: usize = 1 << 20;

/// Largest request body with a model. A stable revision is stored with its manifest, and both together
/// must fit into one value of the store.
const MAX_MODEL: usize = 384 << 10;

const _: () = assert!(MAX_MODEL + MAX_MANIFEST_BYTES + 1024 <= MAX_VALUE_BYTES);

/// Reads a resource from a request body. Returns it with the document as the client wrote it.
///
/// # Errors
/// When it is not valid, or not of the `kind` and `name` in the request's path.
pub(super) async fn read_resource(
    kind: &str,
    name: &str,
    body: Body,
) -> Result<(Resource, Value), ApiError> {
    let max_bytes = if kind == "Model" {
        MAX_MODEL
    } else {
        MAX_RESOURCE
    };
    let document: Value = read_json(body, max_bytes).await?;
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
    if let Err((field, problem)) = check_resource(&resource) {
        return Err(ApiError::invalid(Some(field), problem));
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

/// Checks the size of a resource in a larger request.
///
/// # Errors
/// What is wrong.
pub(super) fn check_size(resource: &Resource, document: &Value) -> Result<(), String> {
    let max_bytes = match resource {
        Resource::Model(_) => MAX_MODEL,
        Resource::Task(_) | Resource::Router(_) => MAX_RESOURCE,
    };
    let bytes = document.to_string().len();
    if bytes > max_bytes {
        return Err(format!("has {bytes} bytes, and may have {max_bytes}"));
    }
    Ok(())
}

/// Checks what a resource's own validation cannot: paths, which must mean the same on every machine, and
/// JSON schemas.
///
/// # Errors
/// The field, if it is one, and what is wrong.
pub(super) fn check_resource(resource: &Resource) -> Result<(), (String, String)> {
    match resource {
        Resource::Model(model) => match &model.spec.source {
            Some(ModelSource::Path(path) | ModelSource::ControllerPath(path))
                if path.is_relative() =>
            {
                let problem = format!("The path '{}' must be absolute.", path.display());
                Err(("spec.source".into(), problem))
            }
            _ => Ok(()),
        },
        Resource::Task(task) => match TaskView::new(task.clone(), 0) {
            Ok(_) => Ok(()),
            Err(problem) => Err(("spec".into(), problem)),
        },
        Resource::Router(_) => Ok(()),
    }
}

/// A list of resources in a reply.
#[derive(Debug, Serialize)]
pub(super) struct ResourceList<T> {
    items: Vec<T>,
    /// Conditions that make the list less than current, see [`FleetView::notes`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

impl<T> ResourceList<T> {
    /// The `items` of a view.
    pub(super) fn new(view: &FleetView, items: impl Iterator<Item = T>) -> Self {
        Self {
            items: items.collect(),
            notes: view.notes(),
        }
    }

    /// Adds notes that concern this list alone.
    pub(super) fn with_notes(mut self, notes: Vec<String>) -> Self {
        self.notes.extend(notes);
        self
    }
}
