//! The engine that runs a model, and its options.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use url::{Host, Url};

use crate::ZoneName;

/// The engine that runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// `llama` for a GGUF file, `mistral` for a Hugging Face folder.
    Auto,
    /// llama.cpp in a process of its own, which the agent starts: GGUF files.
    Llama,
    /// mistral.rs in a process of its own, which the agent starts: Hugging Face folders and GGUF files.
    Mistral,
    /// An OpenAI-compatible server that the node can reach.
    Upstream,
    /// No model: fixed tokens at a fixed speed, for benchmarks and simulations.
    Simulated,
}

impl EngineKind {
    /// Whether the engine computes on the node, in a process of its own for each model.
    #[must_use]
    pub fn computes(self) -> bool {
        matches!(self, Self::Auto | Self::Llama | Self::Mistral)
    }
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Upstream => "upstream",
            Self::Simulated => "simulated",
        })
    }
}

/// What a model that is computed on the node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Pipeline {
    /// Chat and text completion.
    Text,
    /// Embeddings.
    Embedding,
}

/// The number format of a model's weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit floating point.
    F32,
    /// 16-bit IEEE floating point.
    F16,
    /// 16-bit floating point with the exponent range of 32 bits.
    Bf16,
}

/// The longest context of a request where the spec does not say, in tokens: the memory of a longer one is rarely worth it for a small model.
pub const DEFAULT_CONTEXT_LENGTH: u32 = 8_192;

/// The number format of what a model keeps of the tokens it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KvCacheType {
    /// 32-bit floating point.
    F32,
    /// 16-bit IEEE floating point.
    F16,
    /// 8 bits, with a scale for every 32 numbers: 8.5 bits in all.
    #[serde(rename = "q8_0")]
    Q8,
    /// 4 bits, with a scale for every 32 numbers: 4.5 bits in all.
    #[serde(rename = "q4_0")]
    Q4,
}

/// The options of all engines. Each field names the engine that reads it; an option that the chosen
/// engine does not read is rejected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EngineOptions {
    /// `llama`, `mistral`: whether the model generates text or makes embeddings. Default: embeddings if the
    /// folder has sentence-transformers' `modules.json`, or the GGUF file states a pooling; else text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Pipeline>,
    /// `mistral`: the number format. Default: f32 on a CPU, else the format that mistral.rs chooses
    /// for the accelerator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// `mistral`: quantises the weights while loading, to `q4_0`, `q4k`, `q5k`, `q6k`, `q8_0` or
    /// another format of mistral.rs. Default: as the files are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// `llama`, `mistral`: the text of a Jinja chat template that replaces the one of the files. Default: the
    /// files' own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// `llama`, `mistral`: the time that the reading of one prompt may take, in seconds, at least 1. A prompt that
    /// is expected to take longer on its node is refused. With `mistral` nothing else is computed meanwhile.
    /// Default: 120 with `mistral`, no limit with `llama`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("x-unit" = "seconds"))]
    pub max_prompt_seconds: Option<u32>,
    /// `llama`, `mistral`: the longest context of each request in tokens, prompt and answer together, at least 2 and
    /// at most what the model's files have. The memory that a replica needs grows with it, with `mistral` with its
    /// square. Default: what the files have, but at most 8192.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2), extend("x-unit" = "tokens"))]
    pub context_length: Option<u32>,
    /// `llama`: the number format of what the model keeps of the tokens it has read. `q8_0` and `q4_0` need flash
    /// attention. Default: `f16`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_cache_type: Option<KvCacheType>,
    /// `llama`: the threads that compute the model, at least 1. Default: as many as the agent gives each runner.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("x-unit" = "threads"))]
    pub threads: Option<u32>,
    /// `llama`: how many of the model's layers are computed on the accelerator. Default: all that fit, none where the
    /// spec's accelerator is `cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-unit" = "layers"))]
    pub gpu_layers: Option<u32>,
    /// `llama`: whether attention is computed without its whole matrix in memory. Default: wherever the model and
    /// the processor allow it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flash_attention: Option<bool>,
    /// `upstream`: the server's base URL, including `/v1`. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^https?://"))]
    pub url: Option<String>,
    /// `upstream`: the name that the server has for the model. Default: the model's name in the fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `upstream`: the name of the secret with the server's API key. The owner of the node gives it to the agent,
    /// with the hosts that may get it: `--upstream-secret NAME=FILE@HOST`. Default: no key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_secret: Option<String>,
    /// `upstream`: the privacy zone of a server that is not on the node. Default: none, so that requests
    /// restricted to zones never go there. A server on the node is in the node's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    /// `simulated`: tokens of each answer, limited by a request's `max_tokens`. Default: 16.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-unit" = "tokens"))]
    pub output_tokens: Option<u32>,
    /// `simulated`: tokens per second after the first token. Default: 0, all at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0), extend("x-unit" = "tokens per second"))]
    pub tokens_per_second: Option<f64>,
    /// `simulated`: time to the first token, in milliseconds. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-unit" = "milliseconds"))]
    pub time_to_first_token_ms: Option<u64>,
    /// `simulated`: the probability that is reported for each token, above 0 and at most 1. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub token_probability: Option<f32>,
    /// `simulated`: whether the first token comes sooner for a conversation whose beginning was seen
    /// before. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_cache: Option<bool>,
    /// `simulated`: time that a load takes, in milliseconds. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-unit" = "milliseconds"))]
    pub load_ms: Option<u64>,
    /// `simulated`: time after a load in which answers wait, as those of a model do that warms up, in
    /// milliseconds. Default: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-unit" = "milliseconds"))]
    pub warm_up_ms: Option<u64>,
    /// `simulated`: makes every load fail with this text. Default: loads succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_error: Option<String>,
}

/// The options that an adapter has for itself. All others belong to the process of its base.
pub(super) const ADAPTER_OPTIONS: [&str; 2] = ["chatTemplate", "maxPromptSeconds"];

impl EngineOptions {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `url` names a server on the node itself: `localhost` or a loopback address. A URL that
    /// cannot be parsed does not. The HTTP client parses URLs with the same crate, so that both see the
    /// same host.
    #[must_use]
    pub fn url_is_loopback(&self) -> bool {
        let url = self.url.as_deref().unwrap_or_default();
        match Url::parse(url).as_ref().map(Url::host) {
            Ok(Some(Host::Domain(domain))) => domain == "localhost",
            Ok(Some(Host::Ipv4(address))) => address.is_loopback(),
            Ok(Some(Host::Ipv6(address))) => address.is_loopback(),
            Ok(None) | Err(_) => false,
        }
    }

    /// Iterates over the options that are set, each with the engines that read it.
    pub(super) fn set_options(
        &self,
    ) -> impl Iterator<Item = (&'static str, &'static [EngineKind])> {
        let options = self.options().into_iter();
        options.filter_map(|(set, name, readers)| set.then_some((name, readers)))
    }

    /// The first option that is set and that an engine does not read.
    #[must_use]
    pub fn not_read_by(&self, engine: EngineKind) -> Option<&'static str> {
        let mut options = self.set_options();
        let unread = options.find(|(_, readers)| !readers.contains(&engine));
        unread.map(|(name, _)| name)
    }

    /// Returns every option: whether it is set, its name, and the engines that read it.
    fn options(&self) -> [(bool, &'static str, &'static [EngineKind]); 22] {
        use EngineKind::{Auto, Llama, Mistral, Simulated, Upstream};
        const COMPUTED: &[EngineKind] = &[Auto, Llama, Mistral];
        const LLAMA: &[EngineKind] = &[Auto, Llama];
        const MISTRAL: &[EngineKind] = &[Auto, Mistral];
        const UPSTREAM: &[EngineKind] = &[Upstream];
        const SIMULATED: &[EngineKind] = &[Simulated];
        let max_prompt_seconds = self.max_prompt_seconds.is_some();
        let tokens_per_second = self.tokens_per_second.is_some();
        let time_to_first_token = self.time_to_first_token_ms.is_some();
        let token_probability = self.token_probability.is_some();
        [
            (self.pipeline.is_some(), "pipeline", COMPUTED),
            (self.dtype.is_some(), "dtype", MISTRAL),
            (self.quantization.is_some(), "quantization", MISTRAL),
            (self.chat_template.is_some(), "chatTemplate", COMPUTED),
            (max_prompt_seconds, "maxPromptSeconds", COMPUTED),
            (self.context_length.is_some(), "contextLength", COMPUTED),
            (self.kv_cache_type.is_some(), "kvCacheType", LLAMA),
            (self.threads.is_some(), "threads", LLAMA),
            (self.gpu_layers.is_some(), "gpuLayers", LLAMA),
            (self.flash_attention.is_some(), "flashAttention", LLAMA),
            (self.url.is_some(), "url", UPSTREAM),
            (self.model.is_some(), "model", UPSTREAM),
            (self.api_key_secret.is_some(), "apiKeySecret", UPSTREAM),
            (self.zone.is_some(), "zone", UPSTREAM),
            (self.output_tokens.is_some(), "outputTokens", SIMULATED),
            (tokens_per_second, "tokensPerSecond", SIMULATED),
            (time_to_first_token, "timeToFirstTokenMs", SIMULATED),
            (token_probability, "tokenProbability", SIMULATED),
            (self.prefix_cache.is_some(), "prefixCache", SIMULATED),
            (self.load_ms.is_some(), "loadMs", SIMULATED),
            (self.warm_up_ms.is_some(), "warmUpMs", SIMULATED),
            (self.load_error.is_some(), "loadError", SIMULATED),
        ]
    }
}

/// Returns the rule about the fields that an adapter has.
fn adapter_rule() -> Value {
    let options = EngineOptions::default().options().into_iter();
    let options: Map<String, Value> = options
        .filter(|(_, name, _)| !ADAPTER_OPTIONS.contains(name))
        .map(|(_, name, _)| (name.into(), json!({ "type": "null" })))
        .collect();
    json!({
        "if": { "properties": { "base": { "type": "string" } }, "required": ["base"] },
        "then": {
            "properties": {
                "engine": { "enum": [EngineKind::Auto, EngineKind::Llama] },
                "format": { "type": "null" },
                "options": { "properties": options },
            },
        },
    })
}

/// Adds the rules of [`Model::validate`](super::Model::validate) about the fields that each engine reads.
pub(super) fn add_engine_rules(schema: &mut Schema) {
    use EngineKind::{Auto, Llama, Mistral, Simulated, Upstream};
    let rules = [Auto, Llama, Mistral, Upstream, Simulated].map(|engine| {
        let options = EngineOptions::default().options().into_iter();
        let mut options: Map<String, Value> = options
            .filter(|(_, _, readers)| !readers.contains(&engine))
            .map(|(_, name, _)| (name.into(), json!({ "type": "null" })))
            .collect();
        let mut required = Vec::new();
        let mut condition = json!({ "properties": { "engine": { "const": engine } } });
        let mut source = json!({ "type": "null" });
        match engine {
            Auto | Llama | Mistral => {
                required.push("source");
                source = json!({ "type": "object" });
            }
            Upstream => {
                required.push("options");
                options.insert("url".into(), json!({ "type": "string" }));
            }
            Simulated => {}
        }
        // The default, so it also holds without `engine`.
        if engine != Auto {
            condition["required"] = json!(["engine"]);
        }
        let mut options = json!({ "properties": options });
        if engine == Upstream {
            options["required"] = json!(["url"]);
        }
        json!({
            "if": condition,
            "then": {
                "required": required,
                "properties": { "source": source, "options": options },
            },
        })
    });
    let mut rules = rules.to_vec();
    rules.push(adapter_rule());
    schema.insert("allOf".into(), rules.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url_is_loopback(url: &str) -> bool {
        let options = EngineOptions {
            url: Some(url.to_owned()),
            ..EngineOptions::default()
        };
        options.url_is_loopback()
    }

    #[test]
    fn loopback_hosts_are_on_the_node() {
        for url in [
            "http://localhost:8080/v1",
            "http://LOCALHOST/v1",
            "https://127.0.0.1/v1",
            "http://127.1:80/v1",
            "http://[::1]:11434/v1",
            "http://user:password@127.0.0.1/v1",
        ] {
            assert!(url_is_loopback(url), "{url}");
        }
    }

    #[test]
    fn every_other_host_is_elsewhere() {
        for url in [
            "http://example.com/v1",
            "http://localhost.example.com/v1",
            "http://127.0.0.1.example.com/v1",
            "http://127.0.0.1@example.com/v1",
            "http://example.com\\@127.0.0.1/v1",
            "http://example.com/127.0.0.1",
            "http://192.168.0.1/v1",
            "localhost:8080/v1",
            "",
        ] {
            assert!(!url_is_loopback(url), "{url}");
        }
    }
}
