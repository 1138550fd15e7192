//! The connection to a server.

use flotilla_core::generate::RequestError;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::Value;

use super::limits::ServerTimeouts;
use super::{body, error};
use crate::LoadError;

/// A server's address and how to reach it.
pub(super) struct ServerConnection {
    pub(super) client: Client,
    /// Without a slash at the end.
    pub(super) base_url: String,
    pub(super) api_key: Option<String>,
    pub(super) timeouts: ServerTimeouts,
}

impl ServerConnection {
    /// Checks that the server can be reached and accepts the API key. A server that cannot list its
    /// models may still answer requests, so every other status passes.
    pub(super) async fn probe(&self) -> Result<(), LoadError> {
        let url = format!("{}/models", self.base_url);
        let request = self.authorize(self.client.get(&url));
        let response = request
            .timeout(self.timeouts.probe)
            .send()
            .await
            .map_err(|e| LoadError::Server(error::unreachable(&url, &e)))?;
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(LoadError::Spec(format!(
                "{url} rejects the API key: set spec.options.apiKeySecret, or correct the secret on the node"
            ))),
            _ => Ok(()),
        }
    }

    /// Sends a request, and resolves with the headers of a response whose status is a success.
    ///
    /// # Errors
    /// The server's refusal, or how it failed.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Response, RequestError> {
        let url = format!("{}/{path}", self.base_url);
        let time = self.timeouts.first_byte;
        let request = self.authorize(self.client.post(&url)).json(body);
        let response = tokio::time::timeout(time, request.send()).await;
        let response = response.map_err(|_| body::silent(time))?;
        let response = response.map_err(|e| unsent(&url, &e))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let time = self.timeouts.error_body;
        let body = body::read_start(response, error::MAX_ERROR_BYTES, time).await;
        Err(error::from_status(status, &headers, &body))
    }

    fn authorize(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}

/// The error of a request that got no response. Whether it is sent again is the controller's decision,
/// which limits retries: the HTTP client cannot tell whether the server has begun to compute the answer.
fn unsent(url: &str, error: &reqwest::Error) -> RequestError {
    let message = error::unreachable(url, error);
    if error.is_connect() || error.is_request() {
        RequestError::UpstreamUnreachable(message)
    } else {
        RequestError::Upstream(message)
    }
}
