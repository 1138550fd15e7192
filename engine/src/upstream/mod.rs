//! Models of OpenAI-compatible servers that the node can reach: llama.cpp's server, Ollama, vLLM and
//! others.
//!
//! [`request`] writes a request in OpenAI's format and [`connection`] sends it. [`body`] reads what comes
//! back within [`limits`], [`events`] takes it apart with the types of [`response`], and [`answer`] puts
//! the answer together. [`error`] translates what a server refuses.
//!
//! Servers differ in form, and every form that is known is accepted. Everything that they send is bounded
//! in size, in number and in time ([`bounded_list`]) and compared with the request. An answer that is
//! larger, later or other than requested becomes [`RequestError::Upstream`].

mod answer;
mod body;
mod bounded_list;
mod connection;
mod embeddings;
mod error;
mod events;
mod limits;
mod logprobs;
mod request;
mod response;
mod secrets;
mod tool_calls;

use std::sync::Arc;

use async_trait::async_trait;
use flotilla_core::Bytes;
use flotilla_core::generate::{EmbedRequest, Embeddings, GenerateRequest, RequestError};
use flotilla_core::spec::Model;
use futures::StreamExt;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};

use self::connection::ServerConnection;
pub use self::secrets::{SecretSyntaxError, UpstreamSecret};

use self::limits::{ServerTimeouts, UpstreamLimits};
use crate::{
    ComputeDevice, ComputeLocation, Engine, GenerateEvents, LoadControl, LoadError, LoadProgress,
    LoadedModel,
};

/// The number of inputs in one request for embeddings. Each request costs a round trip, and a server
/// computes its inputs as a batch; servers refuse larger ones (text-embeddings-inference has this limit
/// unless it is configured otherwise).
const EMBED_BATCH: usize = 32;

/// Forwards requests to OpenAI-compatible servers.
pub struct UpstreamEngine {
    /// Uses the proxies that the environment sets.
    client: Client,
    /// Uses no proxy.
    direct_client: Client,
    /// The API keys of servers.
    secrets: Vec<UpstreamSecret>,
    timeouts: ServerTimeouts,
}

impl UpstreamEngine {
    /// Creates an engine with its own connection pools, whose models may use these secrets.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(secrets: Vec<UpstreamSecret>) -> Result<Self, LoadError> {
        Self::with_timeouts(secrets, ServerTimeouts::default())
    }

    fn with_timeouts(
        secrets: Vec<UpstreamSecret>,
        timeouts: ServerTimeouts,
    ) -> Result<Self, LoadError> {
        let builder = || {
            Client::builder()
                .connect_timeout(timeouts.connect)
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
            secrets,
            timeouts,
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
        control: &LoadControl,
    ) -> Result<Arc<dyn LoadedModel>, LoadError> {
        progress("connecting to the server", 0.0);
        let options = &model.spec.options;
        let url = options.url.as_deref().unwrap_or_default();
        let secret = options.api_key_secret.as_ref();
        let api_key = secret
            .map(|name| secrets::secret_for(&self.secrets, name, url))
            .transpose()?;
        // A prompt that must stay on the node or in a privacy zone must not pass a proxy outside.
        let is_on_node = options.url_is_loopback();
        let is_confined = is_on_node || options.zone.is_some();
        let client = if is_confined {
            &self.direct_client
        } else {
            &self.client
        };
        let upstream = UpstreamModel {
            connection: ServerConnection {
                client: client.clone(),
                base_url: url.trim_end_matches('/').to_owned(),
                api_key,
                timeouts: self.timeouts,
            },
            name: options
                .model
                .clone()
                .unwrap_or_else(|| model.name().to_string()),
            is_on_node,
        };
        tokio::select! {
            probed = upstream.connection.probe() => probed?,
            () = control.cancelled.cancelled() => return Err(LoadError::Cancelled),
        }
        Ok(Arc::new(upstream))
    }
}

/// A model of a server.
struct UpstreamModel {
    connection: ServerConnection,
    /// The model's name on the server.
    name: String,
    /// Whether the server runs on the node itself.
    is_on_node: bool,
}

#[async_trait]
impl LoadedModel for UpstreamModel {
    fn compute_device(&self) -> ComputeDevice {
        // Which of the node's devices the server uses is its own affair.
        ComputeDevice::Gpu(None)
    }

    fn compute_location(&self) -> ComputeLocation {
        if self.is_on_node {
            ComputeLocation::OtherProcess
        } else {
            ComputeLocation::OtherMachine
        }
    }

    fn embed_batch(&self) -> usize {
        EMBED_BATCH
    }

    fn has_prefix_cache(&self) -> bool {
        // llama.cpp's server, Ollama, vLLM and hosted models have one.
        true
    }

    async fn generate(&self, request: GenerateRequest) -> Result<GenerateEvents, RequestError> {
        // Servers send the prompt as a part of the answer then, from which it cannot be separated.
        if request.prompt_logprobs {
            return Err(RequestError::invalid(
                "logprobs",
                "'logprobs' together with 'echo' is not supported for models of upstream servers.",
            ));
        }
        let limits = UpstreamLimits::new(&request);
        let timeouts = self.connection.timeouts;
        let (path, body) = request::completion(&self.name, &request);
        let response = self.connection.post(path, &body).await?;
        let pieces = body::pieces(response, limits.received_bytes, timeouts);
        Ok(events::from_pieces(pieces, limits, timeouts).boxed())
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, RequestError> {
        let inputs = request.inputs.len();
        let body = request::embeddings(&self.name, &request);
        let response = self.connection.post("embeddings", &body).await?;
        let max_bytes = limits::embeddings_bytes(inputs);
        let pieces = std::pin::pin!(body::pieces(response, max_bytes, self.connection.timeouts));
        let body = body::read_rest(body::Piece::new(), pieces, max_bytes).await?;
        embeddings::parse(&body, inputs)
    }
}

#[cfg(test)]
mod tests;
