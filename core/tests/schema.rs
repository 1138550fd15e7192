//! The JSON Schemas and serde accept and reject the same resources.

// The functions that tests share fail a test by panicking.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use flotilla_core::spec::{Model, Resource, Router, Task, json_schema, parse_documents};
use jsonschema::Validator;
use serde_json::Value;

/// The schemas of all kinds.
struct Schemas {
    model: Validator,
    task: Validator,
    router: Validator,
}

impl Schemas {
    fn new() -> Self {
        let compile = |schema: Value| jsonschema::validator_for(&schema).expect("a JSON schema");
        Self {
            model: compile(json_schema::<Model>()),
            task: compile(json_schema::<Task>()),
            router: compile(json_schema::<Router>()),
        }
    }

    /// Validates a document by the schema of its kind.
    fn validate(&self, document: &Value) -> Result<(), String> {
        let schema = match document["kind"].as_str() {
            Some("Task") => &self.task,
            Some("Router") => &self.router,
            _ => &self.model,
        };
        schema.validate(document).map_err(|error| error.to_string())
    }
}

fn documents(text: &str) -> Vec<Value> {
    parse_documents(text).expect("valid YAML")
}

fn document(kind: &str, spec: &str) -> Value {
    let name = if kind == "Router" { "default" } else { "a" };
    let text = format!(
        "{{apiVersion: flotilla.dev/v1, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}"
    );
    documents(&text).remove(0)
}

#[test]
fn demo_manifests_match_their_schema() {
    let schemas = Schemas::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            for document in documents(&std::fs::read_to_string(&path).unwrap()) {
                let problem = schemas.validate(&document).err();
                assert_eq!(problem, None, "{}", path.display());
                count += 1;
            }
        }
    }
    assert!(count > 5, "{count} documents");
}

#[test]
fn status_of_a_resource_from_the_fleet_is_accepted() {
    let schemas = Schemas::new();
    for kind in ["Model", "Task", "Router"] {
        let spec = if kind == "Task" {
            "{models: [a]}"
        } else {
            "{}"
        };
        let spec = if kind == "Model" {
            "{engine: simulated}"
        } else {
            spec
        };
        let mut document = document(kind, spec);
        document["status"] = serde_json::json!({"ready": 1});
        schemas.validate(&document).unwrap();
        Resource::from_json(document.clone()).unwrap();
        document["status"] = "no object".into();
        assert!(schemas.validate(&document).is_err());
        assert!(Resource::from_json(document).is_err());
    }
}

/// Valid specs by kind. Between them they have every field and every form of a field.
const VALID: &[(&str, &str)] = &[
    ("Model", "{engine: simulated}"),
    ("Model", "{source: {path: /m}}"),
    ("Model", "{source: {path: /m, url: null}, memory: null}"),
    ("Model", "{engine: mistral, source: {artifact: a-1}, format: gguf}"),
    ("Model", "{source: {controllerPath: /m}, format: safetensors}"),
    (
        "Model",
        "{source: {url: 'https://x/y', sha256: 0123456789abcdef0123456789ABCDEF0123456789abcdef0123456789abcdef}}",
    ),
    (
        "Model",
        "{source: {huggingFace: {repo: o/n.b, revision: 0123456789abcdef0123456789abcdef01234567, files: [a]}}}",
    ),
    ("Model", "{source: {path: /m}, options: {pipeline: embedding, dtype: bf16, quantization: q4k}}"),
    (
        "Model",
        "{engine: upstream, options: {url: 'http://h/v1', model: m, apiKeySecret: KEY, zone: z}}",
    ),
    (
        "Model",
        "{engine: simulated, options: {outputTokens: 3, tokensPerSecond: 2.5, timeToFirstTokenMs: 1,
          tokenProbability: 0.5, prefixCache: true, loadMs: 7, warmUpMs: 8, loadError: no}}",
    ),
    ("Model", "{engine: simulated, options: {tokensPerSecond: 20, url: null}}"),
    ("Model", "{engine: simulated, replicas: 3, concurrency: 1, queue: 0}"),
    ("Model", "{engine: simulated, replicas: {min: 0, max: 2}, keepAlive: 1h 30m}"),
    ("Model", "{engine: simulated, keepAlive: '0'}"),
    ("Model", "{engine: simulated, keepAlive: ' 1.5 hours2min '}"),
    ("Model", "{engine: simulated, memory: 1048576}"),
    ("Model", "{engine: simulated, memory: 512MiB}"),
    ("Model", "{engine: simulated, memory: '17'}"),
    ("Model", "{engine: simulated, memory: ' .5 Gi '}"),
    ("Model", "{engine: simulated, memory: 1e3KB}"),
    (
        "Model",
        "{engine: simulated, description: d, revision: r, accelerator: cuda, nodeSelector: {a: b},
          tolerations: [{key: k}, {key: k, value: v}], spreadBy: rack, zones: [a, b, a]}",
    ),
    ("Task", "{models: [a]}"),
    ("Task", "{models: [a], description: d, examples: [hello], priority: high, zones: [z, z]}"),
    ("Task", "{models: [a], hedge: {after: 200ms}, priority: low}"),
    (
        "Task",
        "{models: [a], objective: {weights: {quality: 1}, minQuality: 0.5, maxLatency: 1s, maxJoules: 2}}",
    ),
    ("Task", "{models: [a], objective: {}, cascade: null}"),
    ("Task", "{models: [a, b], cascade: {}}"),
    (
        "Task",
        "{models: [a, b], cascade: {accept: {measure: mean, atLeast: 0.5}, tiers: {a: {atLeast: 1}},
          schema: {type: object}}}",
    ),
    ("Task", "{models: [a], learn: {from: feedback}}"),
    ("Task", "{models: [a], learn: {from: [escalations, feedback], keep: 100000}}"),
    ("Router", "{}"),
    ("Router", "{defaultTask: t, abstain: {minConfidence: 0.4}, examples: [hm]}"),
    ("Router", "{abstain: {falseAbstentionRate: 0, minConfidence: null}}"),
    (
        "Router",
        "{grid: {carbonIntensity: 300, pricePerKwh: 0.3, currency: EUR, zones: {z: {carbonIntensity: 1.5}}}}",
    ),
];

#[test]
fn valid_resources_are_accepted_by_both() {
    let schemas = Schemas::new();
    for (kind, spec) in VALID {
        let document = document(kind, spec);
        assert_eq!(schemas.validate(&document).err(), None, "schema: {spec}");
        let read = Resource::from_json(document).map_err(|errors| errors.to_string());
        assert_eq!(read.err(), None, "serde: {spec}");
    }
}

/// Invalid specs by kind.
const INVALID: &[(&str, &str)] = &[
    ("Model", "{}"),
    ("Model", "{source: {}}"),
    ("Model", "{source: {path: ''}}"),
    ("Model", "{source: {path: /m, artifact: a}}"),
    ("Model", "{source: {url: 'https://x/y'}}"),
    (
        "Model",
        "{source: {path: /m, sha256: 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef}}",
    ),
    (
        "Model",
        "{source: {huggingFace: {repo: o/n, revision: main}}}",
    ),
    (
        "Model",
        "{source: {huggingFace: {repo: n, revision: 0123456789abcdef0123456789abcdef01234567}}}",
    ),
    ("Model", "{source: {path: /m}, options: {loadMs: 1}}"),
    ("Model", "{source: {path: /m}, format: onnx}"),
    ("Model", "{engine: vllm}"),
    ("Model", "{engine: upstream}"),
    ("Model", "{engine: upstream, options: {url: 'h:80'}}"),
    (
        "Model",
        "{engine: upstream, options: {url: 'http://h', dtype: f16}}",
    ),
    ("Model", "{engine: simulated, source: {path: /m}}"),
    ("Model", "{engine: simulated, options: {url: 'http://h'}}"),
    (
        "Model",
        "{engine: simulated, options: {tokenProbability: 0}}",
    ),
    (
        "Model",
        "{engine: simulated, options: {tokensPerSecond: -1}}",
    ),
    ("Model", "{engine: simulated, replica: 2}"),
    ("Model", "{engine: simulated, replicas: 0}"),
    ("Model", "{engine: simulated, replicas: many}"),
    ("Model", "{engine: simulated, replicas: {min: 1}}"),
    ("Model", "{engine: simulated, concurrency: 0}"),
    ("Model", "{engine: simulated, queue: 100001}"),
    ("Model", "{engine: simulated, queue: null}"),
    ("Model", "{engine: simulated, keepAlive: 5}"),
    ("Model", "{engine: simulated, keepAlive: 5 parsecs}"),
    ("Model", "{engine: simulated, keepAlive: ''}"),
    ("Model", "{engine: simulated, memory: -1}"),
    ("Model", "{engine: simulated, memory: 1.5}"),
    ("Model", "{engine: simulated, memory: 1XB}"),
    ("Model", "{engine: simulated, memory: MiB}"),
    ("Model", "{engine: simulated, zones: [Bad]}"),
    ("Model", "{engine: simulated, tolerations: [{value: v}]}"),
    ("Task", "{}"),
    ("Task", "{models: []}"),
    ("Task", "{models: [auto]}"),
    ("Task", "{models: [a, a]}"),
    ("Task", "{models: [a], cascade: {}}"),
    ("Task", "{models: [a], learn: {}}"),
    ("Task", "{models: [a], learn: {from: []}}"),
    ("Task", "{models: [a], learn: {from: all}}"),
    ("Task", "{models: [a], learn: {from: feedback, keep: 0}}"),
    (
        "Task",
        "{models: [a], learn: {from: feedback, keep: 100001}}",
    ),
    ("Task", "{models: [a, b], cascade: {accept: {atLeast: 2}}}"),
    (
        "Task",
        "{models: [a, b], cascade: {accept: {measure: mean}}}",
    ),
    ("Task", "{models: [a], examples: [' ']}"),
    ("Task", "{models: [a], priority: urgent}"),
    ("Task", "{models: [a], objective: {weights: {}}}"),
    ("Task", "{models: [a], objective: {weights: {energy: -1}}}"),
    ("Task", "{models: [a], objective: {minQuality: 90}}"),
    ("Task", "{models: [a], objective: {maxJoules: 0}}"),
    ("Task", "{models: [a], hedge: {}}"),
    ("Router", "{abstain: {}}"),
    (
        "Router",
        "{abstain: {minConfidence: 0.4, falseAbstentionRate: 0.1}}",
    ),
    ("Router", "{abstain: {falseAbstentionRate: 2}}"),
    ("Router", "{defaultTask: none}"),
    ("Router", "{grid: {pricePerKwh: 0.3}}"),
    ("Router", "{grid: {currency: euro}}"),
    ("Router", "{grid: {carbonIntensity: -1}}"),
];

#[test]
fn invalid_resources_are_rejected_by_both() {
    let schemas = Schemas::new();
    for (kind, spec) in INVALID {
        let document = document(kind, spec);
        assert!(
            schemas.validate(&document).is_err(),
            "schema accepts {spec}"
        );
        assert!(
            Resource::from_json(document).is_err(),
            "serde accepts {spec}"
        );
    }
}

#[test]
fn invalid_envelopes_are_rejected_by_both() {
    let schemas = Schemas::new();
    for text in [
        "{apiVersion: v1, kind: Model, metadata: {name: a}, spec: {engine: simulated}}",
        "{apiVersion: flotilla.dev/v1, kind: Model, metadata: {name: A}, spec: {engine: simulated}}",
        "{apiVersion: flotilla.dev/v1, kind: Model, metadata: {name: auto}, spec: {engine: simulated}}",
        "{apiVersion: flotilla.dev/v1, kind: Model, metadata: {name: a, extra: 1}, spec: {engine: simulated}}",
        "{apiVersion: flotilla.dev/v1, kind: Model, metadata: {name: a}}",
        "{apiVersion: flotilla.dev/v1, kind: Model, spec: {engine: simulated}}",
        "{apiVersion: flotilla.dev/v1, kind: Task, metadata: {name: none}, spec: {models: [a]}}",
        "{apiVersion: flotilla.dev/v1, kind: Router, metadata: {name: mine}}",
        "{apiVersion: flotilla.dev/v1, kind: Pod, metadata: {name: a}, spec: {engine: simulated}}",
    ] {
        let document = documents(text).remove(0);
        assert!(
            schemas.validate(&document).is_err(),
            "schema accepts {text}"
        );
        assert!(
            Resource::from_json(document).is_err(),
            "serde accepts {text}"
        );
    }
}
