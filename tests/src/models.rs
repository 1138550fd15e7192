//! Model resources for tests.

use serde_json::{Value, json};

use crate::repository;

/// A model of the simulated engine with these `options` in its spec.
#[must_use]
pub fn simulated_model(name: &str, replicas: u32, options: &Value) -> Value {
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
        "spec": {"engine": "simulated", "replicas": replicas, "options": options},
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
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
        "spec": {"source": {"path": path.to_str().expect("a text")}, "replicas": replicas},
    })
}
