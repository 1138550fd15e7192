//! The fleet's HTTP API, as the commands use it.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::Endpoint;

/// A fleet.
pub(crate) struct Fleet {
    client: Client,
    base: Url,
}

/// A list of resources.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct List<T> {
    pub(crate) items: Vec<T>,
    #[serde(default)]
    notes: Vec<String>,
}

impl<T> List<T> {
    /// The items; what there is to know beside them goes to standard error.
    pub(crate) fn items(self) -> Vec<T> {
        for note in &self.notes {
            eprintln!("note: {note}");
        }
        self.items
    }
}

impl Fleet {
    /// The fleet at `endpoint`. With or without `/v1` at its end: both are pasted around.
    pub(crate) fn new(endpoint: &Endpoint) -> anyhow::Result<Self> {
        let url = endpoint.url.trim_end_matches('/');
        let url = url.strip_suffix("/v1").unwrap_or(url);
        let wrong = || format!("'{}' is not the address of a fleet", endpoint.url);
        let base = Url::parse(url).with_context(wrong)?;
        if base.cannot_be_a_base() {
            bail!("{}: write http://HOST:PORT", wrong());
        }
        Ok(Self {
            client: Client::builder().tcp_nodelay(true).build()?,
            base,
        })
    }

    /// `GET` with a JSON answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<T> {
        let response = self.send(self.request(Method::GET, path)).await?;
        Ok(response.json().await?)
    }

    /// `GET` of what goes on; it is for the caller to read.
    pub(crate) async fn open(&self, path: &[&str]) -> anyhow::Result<Response> {
        self.send(self.request(Method::GET, path)).await
    }

    /// `PUT` of JSON with a JSON answer.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let response = self
            .send(self.request(Method::PUT, path).json(body))
            .await?;
        Ok(response.json().await?)
    }

    /// `PUT` of JSON that is answered with nothing.
    pub(crate) async fn put_only(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> anyhow::Result<()> {
        self.put_with(path, None, body).await
    }

    /// The same with a query.
    pub(crate) async fn put_with(
        &self,
        path: &[&str],
        query: Option<&str>,
        body: &impl Serialize,
    ) -> anyhow::Result<()> {
        let mut url = self.url(path);
        url.set_query(query);
        self.send(self.client.put(url).json(body)).await.map(drop)
    }

    /// `PUT` of a file.
    pub(crate) async fn upload(&self, path: &[&str], file: &Path) -> anyhow::Result<()> {
        let file = tokio::fs::File::open(file).await?;
        let request = self.request(Method::PUT, path).body(file);
        self.send(request).await.map(drop)
    }

    /// `GET` of a list that goes on: a line of JSON whenever it changes.
    pub(crate) async fn watch(&self, path: &[&str]) -> anyhow::Result<Response> {
        let mut url = self.url(path);
        url.set_query(Some("watch=true"));
        self.send(self.client.get(url)).await
    }

    /// `POST` of JSON; the answer is for the caller to read.
    pub(crate) async fn post(&self, path: &[&str], body: &Value) -> anyhow::Result<Response> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// The same, whatever the fleet says to it.
    pub(crate) async fn try_post(&self, path: &[&str], body: &Value) -> anyhow::Result<Response> {
        self.reach(self.request(Method::POST, path).json(body))
            .await
    }

    /// `DELETE`.
    pub(crate) async fn delete(&self, path: &[&str]) -> anyhow::Result<()> {
        self.send(self.request(Method::DELETE, path))
            .await
            .map(drop)
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // A base that cannot have a path was refused in `new`.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        checked(self.reach(request).await?).await
    }

    async fn reach(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        request.send().await.map_err(|error| {
            if error.is_connect() {
                return anyhow!(
                    "there is no fleet at {}: start one with `flotilla up`, or say where it is with --url or FLOTILLA_URL",
                    self.base
                );
            }
            anyhow!(error.without_url())
        })
    }
}

/// A response that is what was asked for.
///
/// # Errors
/// What the fleet says instead.
pub(crate) async fn checked(response: Response) -> anyhow::Result<Response> {
    if response.status().is_success() {
        return Ok(response);
    }
    let (status, url) = (response.status(), response.url().clone());
    let body: Value = response.json().await.unwrap_or_default();
    match body["error"]["message"].as_str() {
        Some(message) => bail!("{message}"),
        None => bail!("{url} answered {status}"),
    }
}
