//! The kind `Model`: what to serve, with which engine, how many times.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::{API_VERSION, Faults, Metadata};
use crate::{Bytes, ModelName};

/// A model that the fleet is asked to serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Model {
    /// Always [`API_VERSION`].
    pub api_version: String,
    /// Always `Model`.
    pub kind: String,
    pub metadata: Metadata<ModelName>,
    #[serde(default)]
    pub spec: ModelSpec,
}

/// How a model is served.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ModelSpec {
    /// What it does, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where its files are. Needed with [`EngineKind::Mistral`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// What runs it.
    #[serde(deserialize_with = "engine_or_null")]
    pub engine: EngineKind,
    /// Settings of the engine; each belongs to one engine.
    #[serde(skip_serializing_if = "EngineOptions::is_empty")]
    pub options: EngineOptions,
    /// On how many nodes it is placed, at least 1.
    pub replicas: u32,
    /// Memory one replica needs. Without it the node estimates it from the files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Requests one replica computes at once. On a CPU more than a few only slow each
    /// other down.
    pub concurrency: u32,
    /// Requests that may wait on one replica beyond `concurrency`; one more is refused with
    /// "overloaded".
    pub queue: u32,
}

impl Default for ModelSpec {
    fn default() -> Self {
        Self {
            description: String::new(),
            source: None,
            engine: EngineKind::Mistral,
            options: EngineOptions::default(),
            replicas: 1,
            memory: None,
            concurrency: 4,
            queue: 64,
        }
    }
}

/// Where the files of a model are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// A Hugging Face folder or a GGUF file, at the same path on every node that may serve
    /// the model.
    pub path: PathBuf,
}

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// mistral.rs, in the agent's process.
    Mistral,
    /// An OpenAI-compatible server that the node can reach.
    Upstream,
    /// Fixed tokens at a fixed pace, for benchmarks and simulations.
    Null,
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mistral => "mistral",
            Self::Upstream => "upstream",
            Self::Null => "null",
        })
    }
}

/// YAML reads an unquoted `null` as no value, so a present `engine: null` means the null
/// engine. An absent one never comes here: it is the default.
fn engine_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<EngineKind, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(EngineKind::Null))
}

/// How a model of mistral.rs is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pipeline {
    /// Chat and text completion.
    Text,
    /// Embeddings.
    Embedding,
}

/// The number format of a model's weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

/// Settings of engines. Which engine reads which is said at each field;
/// [`Model::validate`] refuses one that the chosen engine does not read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EngineOptions {
    /// `mistral`: text or embedding. Default: embedding when the folder has sentence-transformers'
    /// `modules.json`, else text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Pipeline>,
    /// `mistral`: the number format. Default: f32 on a CPU, what the accelerator does best
    /// elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// `mistral`: quantise while loading: `q4_0`, `q4k`, `q5k`, `q6k`, `q8_0`, … as mistral.rs names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// `upstream`: the server's base URL, up to and with `/v1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `upstream`: the model's name there. Default: its name here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `upstream`: the agent's environment variable that holds the server's API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// `null`: tokens of each answer. Default 16; a request's `max_tokens` caps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u32>,
    /// `null`: pace, in tokens per second. Default 0: all at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// `null`: time before the first token, in milliseconds. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_first_token_ms: Option<u64>,
}

impl EngineOptions {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The options that are set, each with the engine that reads it.
    fn set(&self) -> impl Iterator<Item = (&'static str, EngineKind)> {
        use EngineKind::{Mistral, Null, Upstream};
        [
            (self.pipeline.is_some(), "pipeline", Mistral),
            (self.dtype.is_some(), "dtype", Mistral),
            (self.quantization.is_some(), "quantization", Mistral),
            (self.url.is_some(), "url", Upstream),
            (self.model.is_some(), "model", Upstream),
            (self.api_key_env.is_some(), "apiKeyEnv", Upstream),
            (self.output_tokens.is_some(), "outputTokens", Null),
            (self.tokens_per_second.is_some(), "tokensPerSecond", Null),
            (
                self.time_to_first_token_ms.is_some(),
                "timeToFirstTokenMs",
                Null,
            ),
        ]
        .into_iter()
        .filter_map(|(set, name, engine)| set.then_some((name, engine)))
    }
}

/// Most replicas, concurrent and waiting requests that a spec may ask for: far above any
/// use, low enough that sums of them cannot overflow.
const MOST: u32 = 100_000;

impl Model {
    /// A model called `name`, served as `spec` says.
    #[must_use]
    pub fn new(name: ModelName, spec: ModelSpec) -> Self {
        Self {
            api_version: API_VERSION.into(),
            kind: "Model".into(),
            metadata: Metadata {
                name,
                labels: Default::default(),
            },
            spec,
        }
    }

    /// Changes when, and only when, something changed that a node must load the model anew
    /// for; scaling or describing it differently is none of that.
    #[must_use]
    pub fn serving_revision(&self) -> u64 {
        let served = ModelSpec {
            description: String::new(),
            replicas: 1,
            ..self.spec.clone()
        };
        let mut hasher = DefaultHasher::new();
        // A spec is made of strings and numbers: serializing it cannot fail.
        serde_json::to_string(&served)
            .unwrap_or_default()
            .hash(&mut hasher);
        hasher.finish()
    }

    /// The model's name.
    #[must_use]
    pub fn name(&self) -> &ModelName {
        &self.metadata.name
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Every fault, each with its field path.
    pub fn validate(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let spec = &self.spec;
        let between = |faults: &mut Faults, value: u32, least: u32, field: &str| {
            faults.check(
                !(least..=MOST).contains(&value),
                field,
                format!("must be between {least} and {MOST}, is {value}"),
            );
        };
        between(&mut faults, spec.replicas, 1, "spec.replicas");
        between(&mut faults, spec.concurrency, 1, "spec.concurrency");
        between(&mut faults, spec.queue, 0, "spec.queue");
        match (spec.engine, &spec.source) {
            (EngineKind::Mistral, None) => {
                faults.check(true, "spec.source.path", "is needed with engine mistral");
            }
            (EngineKind::Mistral, Some(source)) => faults.check(
                source.path.as_os_str().is_empty(),
                "spec.source.path",
                "must not be empty",
            ),
            (engine, Some(_)) => faults.check(
                true,
                "spec.source",
                format!("is not read by engine {engine}: leave it out"),
            ),
            (_, None) => {}
        }
        for (option, engine) in spec.options.set() {
            faults.check(
                engine != spec.engine,
                &format!("spec.options.{option}"),
                format!("belongs to engine {engine}, the engine is {}", spec.engine),
            );
        }
        if spec.engine == EngineKind::Upstream {
            let url = spec.options.url.as_deref().unwrap_or_default();
            faults.check(
                !url.starts_with("http://") && !url.starts_with("https://"),
                "spec.options.url",
                "is needed with engine upstream: the server's base URL, such as http://127.0.0.1:11434/v1",
            );
        }
        if let Some(pace) = spec.options.tokens_per_second {
            faults.check(
                !pace.is_finite() || pace < 0.0,
                "spec.options.tokensPerSecond",
                "must be 0 (no pause) or more",
            );
        }
        faults.into_result()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Resource, parse_yaml};
    use super::*;

    fn model(spec: &str) -> Result<Model, String> {
        let yaml =
            format!("apiVersion: flotilla/v1\nkind: Model\nmetadata: {{name: m}}\nspec: {spec}");
        let Resource::Model(model) = parse_yaml(&yaml).map_err(|e| e.to_string())?.remove(0);
        Ok(model)
    }

    #[test]
    fn defaults_are_those_of_a_small_cpu_model() {
        let spec = model("{source: {path: /m}}").unwrap().spec;
        assert_eq!(spec.engine, EngineKind::Mistral);
        assert_eq!((spec.replicas, spec.concurrency, spec.queue), (1, 4, 64));
    }

    #[test]
    fn null_is_an_engine_quoted_or_not() {
        for engine in ["null", "'null'", "~"] {
            let spec = model(&format!("{{engine: {engine}}}")).unwrap().spec;
            assert_eq!(spec.engine, EngineKind::Null, "{engine}");
        }
    }

    #[test]
    fn every_fault_is_reported() {
        let text = model("{replicas: 0, concurrency: 0, options: {url: x}}").unwrap_err();
        for part in [
            "spec.replicas must be between 1",
            "spec.concurrency must be between 1",
            "spec.source.path is needed",
            "spec.options.url belongs to engine upstream, the engine is mistral",
        ] {
            assert!(text.contains(part), "{part} not in: {text}");
        }
    }

    #[test]
    fn upstream_needs_a_url() {
        let text = model("{engine: upstream}").unwrap_err();
        assert!(text.starts_with("spec.options.url is needed"), "{text}");
        assert!(model("{engine: upstream, options: {url: 'http://127.0.0.1/v1'}}").is_ok());
    }

    #[test]
    fn scaling_is_no_new_serving_revision() {
        let one = model("{engine: null}").unwrap();
        let three = model("{engine: null, replicas: 3, description: x}").unwrap();
        let other = model("{engine: null, queue: 3}").unwrap();
        assert_eq!(one.serving_revision(), three.serving_revision());
        assert_ne!(one.serving_revision(), other.serving_revision());
    }

    #[test]
    fn yaml_round_trips() {
        let before =
            model("{engine: null, options: {outputTokens: 9}, memory: 1MiB, replicas: 3}").unwrap();
        let yaml = serde_yaml_ng::to_string(&before).unwrap();
        let Resource::Model(after) = parse_yaml(&yaml).unwrap().remove(0);
        assert_eq!(before, after);
    }
}
