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

/// Returns a pretrained chat model, SmolLM2-135M-Instruct, which `make setup` downloads.
///
/// A prompt may be read for as long as a busy machine takes.
///
/// # Panics
/// Panics if the model was not downloaded.
#[must_use]
pub fn chat_model(name: &str) -> Value {
    let link = repository().join("models/chat/SmolLM2-135M-Instruct.Q4_1.gguf");
    let path = link
        .canonicalize()
        .expect("the chat model is missing: run `make setup`");
    json!({
        "apiVersion": "flotilla.dev/v1", "kind": "Model", "metadata": {"name": name},
        "spec": {
            "source": {"path": path.to_str().expect("valid UTF-8")},
            "options": {"maxPromptSeconds": 3600},
        },
    })
}
