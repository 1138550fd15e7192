//! Model resources for tests.

use serde_json::{Value, json};

use crate::repository;

/// Returns a model of the simulated engine with these `options` in its spec.
#[must_use]
pub fn simulated_model(name: &str, replicas: u32, options: &Value) -> Value {
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
        "spec": {"engine": "simulated", "replicas": replicas, "options": options},
    })
}

/// Returns one of the demo models in the repository's folder `models/`.
///
/// # Panics
/// Panics if the repository's path is not valid UTF-8.
#[must_use]
pub fn demo_model(name: &str, replicas: u32) -> Value {
    let path = repository().join("models").join(name);
    let path = path.canonicalize().unwrap_or(path);
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
        "spec": {"source": {"path": path.to_str().expect("valid UTF-8")}, "replicas": replicas},
    })
}
