//! Model resources for tests.

use serde_json::{Value, json};

use crate::repository;

/// A model of the null engine with these `options` in its spec.
#[must_use]
pub fn null_model(name: &str, replicas: u32, options: &Value) -> Value {
    json!({
        "apiVersion": "flotilla/v1", "kind": "Model", "metadata": {"name": name},
        "spec": {"engine": "null", "replicas": replicas, "options": options},
    })
}

/// One of the demo models.
///
/// # Panics
/// When the repository's path is not text.
#[must_use]
pub fn demo_model(name: &str, replicas: u32) -> Value {
    let path = repository().join("models").join(name);
    let path = path.canonicalize().unwrap_or(path);
    json!({
        "apiVersion": "flotilla/v1", "kind": "Model", "metadata": {"name": name},
        "spec": {"source": {"path": path.to_str().expect("a text")}, "replicas": replicas},
    })
}
