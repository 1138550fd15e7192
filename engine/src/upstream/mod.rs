//! Models of OpenAI-compatible servers that the node can reach: llama.cpp's server, Ollama, vLLM and
//! others.
//!
//! [`request`] writes a request in OpenAI's format, [`events`] parses the streamed answer with the
//! types of [`response`], and [`error`] translates what a server refuses.

mod error;
mod events;
mod request;
mod response;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, RequestError};
use flotilla_core::spec::Model;
use futures::StreamExt;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response, StatusCode};
use serde_json::Value;

use self::response::EmbeddingsReply;
use crate::{ComputeLocation, Engine, GenerateEvents, LoadError, LoadProgress, LoadedModel};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take to list its models.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of inputs in one request for embeddings. Each request costs a round trip, and a server
/// computes its inputs as a batch; servers refuse larger ones (text-embeddings-inference has this limit
/// unless it is told otherwise).
const EMBED_BATCH: usize = 32;

/// Forwards requests to OpenAI-compatible servers.
pub struct UpstreamEngine {
    /// Uses the proxies that the environment sets.
    client: Client,
    /// Uses no proxy.
    direct_client: Client,
}

impl UpstreamEngine {
    /// Creates an engine with its own connection pools.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new() -> Result<Self, LoadError> {
        let builder = || {
            Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                // The spec decides where prompts go: a redirect could take them elsewhere.
                .redirect(Policy::none())
                .tcp_nodelay(true)
        };
        let build = |builder: ClientBuilder| {
            let client = builder.build();
            client.map_err(|e| LoadError::Engine(e.to_string()))
        };
        Ok(Self {
            client: build(builder())?,
            direct_client: build(builder().no_proxy())?,
        })
    }
}

#[async_trait]
impl Engine for UpstreamEngine {
    async fn estimate(&self, _: &Model) -> Result<Bytes, LoadError> {
        // The model's memory belongs to the server's process.
        Ok(Bytes(0))
    }

    async fn load(
        &self,
        model: &Model,
        progress: LoadProgress,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        progress("connecting to the server", 0.0);
        let options = &model.spec.options;
        let url = options.url.as_deref().unwrap_or_default();
        let api_key = match &options.api_key_env {
            None => None,
            Some(name) => Some(std::env::var(name).map_err(|_| {
                LoadError::Spec(format!(
                    "the agent's environment has no variable {name}, which spec.options.apiKeyEnv names"
                ))
            })?),
        };
        // A prompt that must stay on the node or in a privacy zone must not pass a proxy outside.
        let is_confined = options.url_is_loopback() || options.zone.is_some();
        let upstream = UpstreamModel {
            client: if is_confined {
                self.direct_client.clone()
            } else {
                self.client.clone()
            },
            base_url: url.trim_end_matches('/').to_owned(),
            name: options
                .model
                .clone()
                .unwrap_or_else(|| model.name().to_string()),
            api_key,
        };
        upstream.probe().await?;
        Ok(Arc::new(upstream))
    }
}

/// A model of a server.
struct UpstreamModel {
    client: Client,
    /// Without a slash at the end.
    base_url: String,
    /// The model's name on the server.
    name: String,
    api_key: Option<String>,
}

impl UpstreamModel {
    /// Checks that the server can be reached and accepts the API key. A server that cannot list its
    /// models may still answer requests, so every other status passes.
    async fn probe(&self) -> Result<(), LoadError> {
        let url = format!("{}/models", self.base_url);
        let request = self.authorize(self.client.get(&url)).timeout(PROBE_TIMEOUT);
        let response = request
            .send()
            .await
            .map_err(|e| LoadError::Engine(error::unreachable(&url, &e)))?;
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(LoadError::Spec(format!(
                "{url} rejects the API key: set spec.options.apiKeyEnv"
            ))),
            _ => Ok(()),
        }
    }

    fn authorize(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Response, RequestError> {
        let url = format!("{}/{path}", self.base_url);
        let request = self.authorize(self.client.post(&url)).json(body);
        let response = request
            .send()
            .await
            .map_err(|e| RequestError::NodeLost(error::unreachable(&url, &e)))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(error::from_response(response).await)
    }
}

#[async_trait]
impl LoadedModel for UpstreamModel {
    fn compute_location(&self) -> ComputeLocation {
        ComputeLocation::OtherProcess
    }

    fn embed_batch(&self) -> usize {
        EMBED_BATCH
    }

    fn has_prefix_cache(&self) -> bool {
        // llama.cpp's server, Ollama, vLLM and hosted models have one.
        true
    }

    async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        let (path, body) = request::completion(&self.name, &request);
        let response = self.post(path, &body).await?;
        Ok(events::from_response(response, request.choices).boxed())
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
        let body = request::embeddings(&self.name, &request);
        let response = self.post("embeddings", &body).await?;
        let reply: EmbeddingsReply = response.json().await.map_err(|e| {
            RequestError::Engine(format!("the server's embeddings cannot be parsed: {e}"))
        })?;
        Ok(reply.into_embeddings())
    }
}

#[cfg(test)]
mod tests;
