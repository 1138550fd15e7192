//! What runs a model, and its settings.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ZoneName;

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// mistral.rs, in the agent's process.
    Mistral,
    /// An OpenAI-compatible server that the node can reach.
    Upstream,
    /// Fixed tokens at a fixed pace, for benchmarks and simulations.
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
/// [`Model::validate`](super::Model::validate) refuses one that the chosen engine does not
/// read.
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
    /// `upstream`: the privacy zone that the server is in. A server on the node itself is where the
    /// node is; one elsewhere is in no zone unless this says so, and requests that are held to
    /// zones never go there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<ZoneName>,
    /// `null`: tokens of each answer. Default 16; a request's `max_tokens` caps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u32>,
    /// `null`: pace, in tokens per second. Default 0: all at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// `null`: time before the first token, in milliseconds. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_to_first_token_ms: Option<u64>,
    /// `null`: how probable each token is said to be, above 0 and up to 1. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_probability: Option<f32>,
    /// `null`: whether the beginning of a conversation takes no time that it has read before. Default
    /// false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_cache: Option<bool>,
    /// `null`: time a load takes, in milliseconds. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_ms: Option<u64>,
    /// `null`: loading fails with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_error: Option<String>,
}

impl EngineOptions {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `url` leads to the node itself.
    #[must_use]
    pub fn stays_on_node(&self) -> bool {
        let url = self.url.as_deref().unwrap_or_default();
        let after_scheme = url.split_once("://").map_or("", |(_, rest)| rest);
        let authority = after_scheme.split(['/', '?', '#', '\\']).next();
        let host_port = authority
            .and_then(|a| a.rsplit('@').next())
            .unwrap_or_default();
        let host = match host_port.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host_port.split(':').next().unwrap_or_default(),
        };
        let loopback = |address: IpAddr| address.is_loopback();
        host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(loopback)
    }

    /// The options that are set, each with the engine that reads it.
    pub(super) fn set(&self) -> impl Iterator<Item = (&'static str, EngineKind)> {
        use EngineKind::{Mistral, Simulated, Upstream};
        [
            (self.pipeline.is_some(), "pipeline", Mistral),
            (self.dtype.is_some(), "dtype", Mistral),
            (self.quantization.is_some(), "quantization", Mistral),
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
            (self.load_error.is_some(), "loadError", Simulated),
        ]
        .into_iter()
        .filter_map(|(set, name, engine)| set.then_some((name, engine)))
    }
}
