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
    /// mistral.rs in a process of its own, which the agent starts.
    Mistral,
    /// An OpenAI-compatible server that the node can reach.
    Upstream,
    /// No model: fixed tokens at a fixed speed, for benchmarks and simulations.
    Simulated,
}

impl std::fmt::Display for EngineKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mistral => "mistral",
            Self::Upstream => "upstream",
            Self::Simulated => "simulated",
        })
    }
}

/// What a model of the engine `mistral` does.
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

/// The longest context of a request to the engine `mistral` where the spec does not say, in tokens: the memory of
/// a longer one is rarely worth it for a small model.
pub const DEFAULT_CONTEXT_LENGTH: u32 = 8_192;

/// The options of all engines. Each field names the engine that reads it; an option that the chosen
/// engine does not read is rejected.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EngineOptions {
    /// `mistral`: whether the model generates text or makes embeddings. Default: embeddings if the
    /// folder has sentence-transformers' `modules.json`, else text.
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
    /// `mistral`: the text of a Jinja chat template that replaces the one of the files. Default: the
    /// files' own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// `mistral`: the time that the reading of one prompt may take, in seconds, at least 1. Nothing else is
    /// computed meanwhile. A prompt that is expected to take longer on its node is refused. Default: 120.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("x-unit" = "seconds"))]
    pub max_prompt_seconds: Option<u32>,
    /// `mistral`: the longest context of a request in tokens, prompt and answer together, at least 2 and at most
    /// what the model's files have. The memory that a replica needs grows with its square. Default: what the files
    /// have, but at most 8192.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2), extend("x-unit" = "tokens"))]
    pub context_length: Option<u32>,
    /// `upstream`: the server's base URL, including `/v1`. Required.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^https?://"))]
    pub url: Option<String>,
    /// `upstream`: the name that the server has for the model. Default: the model's name in the fleet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `upstream`: the environment variable of the agent that holds the server's API key. Default: no
    /// key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
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

    /// Iterates over the options that are set, each with the engine that reads it.
    pub(super) fn set_options(&self) -> impl Iterator<Item = (&'static str, EngineKind)> {
        let options = self.options().into_iter();
        options.filter_map(|(set, name, engine)| set.then_some((name, engine)))
    }

    /// Returns every option: whether it is set, its name, and the engine that reads it.
    pub(super) fn options(&self) -> [(bool, &'static str, EngineKind); 18] {
        use EngineKind::{Mistral, Simulated, Upstream};
        [
            (self.pipeline.is_some(), "pipeline", Mistral),
            (self.dtype.is_some(), "dtype", Mistral),
            (self.quantization.is_some(), "quantization", Mistral),
            (self.chat_template.is_some(), "chatTemplate", Mistral),
            (
                self.max_prompt_seconds.is_some(),
                "maxPromptSeconds",
                Mistral,
            ),
            (self.context_length.is_some(), "contextLength", Mistral),
            (self.url.is_some(), "url", Upstream),
            (self.model.is_some(), "model", Upstream),
            (self.api_key_env.is_some(), "apiKeyEnv", Upstream),
            (self.zone.is_some(), "zone", Upstream),
            (self.output_tokens.is_some(), "outputTokens", Simulated),
            (
                self.tokens_per_second.is_some(),
                "tokensPerSecond",
                Simulated,
            ),
            (
                self.time_to_first_token_ms.is_some(),
                "timeToFirstTokenMs",
                Simulated,
            ),
            (
                self.token_probability.is_some(),
                "tokenProbability",
                Simulated,
            ),
            (self.prefix_cache.is_some(), "prefixCache", Simulated),
            (self.load_ms.is_some(), "loadMs", Simulated),
            (self.warm_up_ms.is_some(), "warmUpMs", Simulated),
            (self.load_error.is_some(), "loadError", Simulated),
        ]
    }
}

/// Adds the rules of [`Model::validate`](super::Model::validate) about the fields that each engine reads.
pub(super) fn add_engine_rules(schema: &mut Schema) {
    use EngineKind::{Mistral, Simulated, Upstream};
    let rules = [Mistral, Upstream, Simulated].map(|engine| {
        let options = EngineOptions::default().options().into_iter();
        let mut options: Map<String, Value> = options
            .filter(|(_, _, reader)| *reader != engine)
            .map(|(_, name, _)| (name.into(), json!({ "type": "null" })))
            .collect();
        let mut required = Vec::new();
        let mut condition = json!({ "properties": { "engine": { "const": engine } } });
        let mut source = json!({ "type": "null" });
        match engine {
            // The default, so it also holds without `engine`.
            Mistral => {
                required.push("source");
                source = json!({ "type": "object" });
            }
            Upstream => {
                required.push("options");
                options.insert("url".into(), json!({ "type": "string" }));
            }
            Simulated => {}
        }
        if engine != Mistral {
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
    schema.insert("allOf".into(), rules.to_vec().into());
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
