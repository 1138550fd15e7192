//! Client of the fleet's HTTP API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::args::Endpoint;
use crate::connection_error::{self, wants_tls, without_credentials};
use crate::fleet_address::FleetAddress;

/// Maximum time to connect. An address that swallows packets is given up then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How the URL of an admin socket begins.
const SOCKET_SCHEME: &str = "unix:";
/// The URL of requests over the admin socket.
const SOCKET_BASE: &str = "http://localhost/";

/// Attempts to upload a file while too many others are uploaded.
const UPLOAD_ATTEMPTS: usize = 60;
/// Time until the next attempt where the controller names none.
const UPLOAD_RETRY_AFTER: Duration = Duration::from_secs(5);

/// A client of one fleet.
///
/// Paths are lists of segments. If the fleet answers with an error status, all methods return the
/// message in its answer as the error. If the connection fails, the error says how to reach a fleet.
pub(crate) struct FleetClient {
    client: Client,
    base: Url,
    /// The admin socket, if the fleet is reached over it.
    socket: Option<PathBuf>,
}

/// A list of resources.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct ListResponse<T> {
    pub(crate) items: Vec<T>,
    /// What makes the list less than current, or what a person should know of the fleet.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
}

/// The readiness of a controller.
#[derive(Debug, Default, serde::Deserialize)]
struct Readiness {
    #[serde(default)]
    notes: Vec<String>,
}

/// Prints notes of the fleet to standard error, each on a line.
pub(crate) fn print_notes(notes: &[String]) {
    for note in notes {
        eprintln!("note: {note}");
    }
}

impl FleetClient {
    /// Creates a client of the fleet at `endpoint`, or of the context. A `/v1` at the end of the URL, as OpenAI
    /// clients need it, is ignored.
    pub(crate) fn new(endpoint: &Endpoint) -> anyhow::Result<Self> {
        Self::of(FleetAddress::of(endpoint)?)
    }

    /// Creates a client of the fleet at `address`.
    pub(crate) fn of(address: FleetAddress) -> anyhow::Result<Self> {
        let builder = Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .default_headers(key_header(address.key.as_deref())?);
        if let Some(path) = address.url.strip_prefix(SOCKET_SCHEME) {
            let socket = PathBuf::from(path);
            return Ok(Self {
                client: builder.no_proxy().unix_socket(socket.clone()).build()?,
                base: Url::parse(SOCKET_BASE)?,
                socket: Some(socket),
            });
        }
        let builder = match &address.ca_file {
            Some(file) => builder.tls_certs_merge(read_certificates(file)?),
            None => builder,
        };
        let url = address.url.trim_end_matches('/');
        let url = url.strip_suffix("/v1").unwrap_or(url);
        let base = Url::parse(url).ok();
        let is_url = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
        let base = base.filter(is_url).with_context(|| {
            format!(
                "'{}' is not the URL of a fleet: give http://HOST:PORT of a controller's --http, https://HOST:PORT where a proxy adds TLS, or unix:PATH of the admin socket",
                without_credentials(&address.url)
            )
        })?;
        Ok(Self {
            client: builder.build()?,
            base,
            socket: None,
        })
    }

    /// The URL of the fleet, as it is shown to people.
    pub(crate) fn shown_url(&self) -> String {
        match &self.socket {
            Some(socket) => format!("{SOCKET_SCHEME}{}", socket.display()),
            None => without_credentials(self.base.as_str().trim_end_matches('/')),
        }
    }

    /// Sends a `GET` request and parses the JSON response.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> anyhow::Result<T> {
        let response = self.send(self.request(Method::GET, path)).await?;
        read_json(response).await
    }

    /// Sends a `GET` request with a query and parses the JSON response.
    pub(crate) async fn get_with_query<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &str,
    ) -> anyhow::Result<T> {
        let mut url = self.url(path);
        url.set_query(Some(query));
        read_json(self.send(self.client.get(url)).await?).await
    }

    /// Prints what the controller notes about itself and the fleet. Without an answer, nothing is printed:
    /// the notes accompany the result of something else.
    pub(crate) async fn print_readiness_notes(&self) {
        let Ok(response) = self
            .send_unchecked(self.request(Method::GET, &["readyz"]))
            .await
        else {
            return;
        };
        let readiness: Readiness = read_json(response).await.unwrap_or_default();
        print_notes(&readiness.notes);
    }

    /// Sends a `GET` request and returns the response for streaming. `None`: there is no such thing.
    pub(crate) async fn get_if_found(&self, path: &[&str]) -> anyhow::Result<Option<Response>> {
        let response = self.send_unchecked(self.request(Method::GET, path)).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        check_status(response).await.map(Some)
    }

    /// Sends a `GET` request and returns the response for streaming.
    pub(crate) async fn get_stream(&self, path: &[&str]) -> anyhow::Result<Response> {
        self.send(self.request(Method::GET, path)).await
    }

    /// Sends a `GET` request and returns the response, whatever its status.
    pub(crate) async fn get_unchecked(&self, path: &[&str]) -> anyhow::Result<Response> {
        self.send_unchecked(self.request(Method::GET, path)).await
    }

    /// Sends a `PUT` request with a JSON body and parses the JSON response.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let response = self
            .send(self.request(Method::PUT, path).json(body))
            .await?;
        read_json(response).await
    }

    /// Sends a `PUT` request with a JSON body and ignores the body of the response.
    pub(crate) async fn put_ignoring_response(
        &self,
        path: &[&str],
        body: &impl Serialize,
    ) -> anyhow::Result<()> {
        self.put_with_query(path, None, body).await.map(drop)
    }

    /// Sends a `PUT` request with a JSON body and a query, and returns the successful response.
    pub(crate) async fn put_with_query(
        &self,
        path: &[&str],
        query: Option<&str>,
        body: &impl Serialize,
    ) -> anyhow::Result<Response> {
        let mut url = self.url(path);
        url.set_query(query);
        self.send(self.client.put(url).json(body)).await
    }

    /// Sends a `PUT` request with the content of a file as its body. Tries again for a while when too
    /// many files are uploaded already.
    pub(crate) async fn put_file(&self, path: &[&str], file: &Path) -> anyhow::Result<()> {
        for _ in 1..UPLOAD_ATTEMPTS {
            let response = self.send_file(path, file).await?;
            if response.status() != StatusCode::TOO_MANY_REQUESTS {
                return check_status(response).await.map(drop);
            }
            tokio::time::sleep(retry_after(&response)).await;
        }
        check_status(self.send_file(path, file).await?)
            .await
            .map(drop)
    }

    async fn send_file(&self, path: &[&str], file: &Path) -> anyhow::Result<Response> {
        let file = tokio::fs::File::open(file).await?;
        let size = file.metadata().await?.len();
        let request = self.request(Method::PUT, path);
        // The controller sees at once whether it has space for the file.
        let request = request.header(CONTENT_LENGTH, size).body(file);
        self.send_unchecked(request).await
    }

    /// Watches a list. The response has a line of JSON for the current list, and another one
    /// after each change.
    pub(crate) async fn watch(&self, path: &[&str]) -> anyhow::Result<Response> {
        let mut url = self.url(path);
        url.set_query(Some("watch=true"));
        self.send(self.client.get(url)).await
    }

    /// Sends a `POST` request with a JSON body and returns the successful response.
    pub(crate) async fn post(&self, path: &[&str], body: &Value) -> anyhow::Result<Response> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// Sends a `POST` request with a JSON body and returns the response, whatever its status.
    pub(crate) async fn post_unchecked(
        &self,
        path: &[&str],
        body: &Value,
    ) -> anyhow::Result<Response> {
        self.send_unchecked(self.request(Method::POST, path).json(body))
            .await
    }

    /// Sends a `DELETE` request.
    pub(crate) async fn delete(&self, path: &[&str]) -> anyhow::Result<()> {
        self.send(self.request(Method::DELETE, path))
            .await
            .map(drop)
    }

    /// Sends a `DELETE` request and parses the JSON response.
    pub(crate) async fn delete_with_reply<T: DeserializeOwned>(
        &self,
        path: &[&str],
    ) -> anyhow::Result<T> {
        let response = self.send(self.request(Method::DELETE, path)).await?;
        read_json(response).await
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // `new` rejects URLs that cannot have a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        check_status(self.send_unchecked(request).await?).await
    }

    async fn send_unchecked(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let sent = request.send().await;
        sent.map_err(|error| match &self.socket {
            Some(socket) => anyhow!(connection_error::socket_message(socket, &error)),
            None => anyhow!(connection_error::message(&self.base, &error)),
        })
    }
}

/// The header that presents a key.
///
/// # Errors
/// Returns an error if the key cannot be in a header, as no key of a fleet.
fn key_header(key: Option<&str>) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        let value = HeaderValue::from_str(&format!("Bearer {key}"));
        let mut value = value.map_err(|_| anyhow!("the API key has characters that no key has"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// Reads the certificate authorities in a PEM file.
fn read_certificates(file: &Path) -> anyhow::Result<Vec<Certificate>> {
    let context = || format!("cannot use the certificates in {}", file.display());
    let pem = std::fs::read(file).with_context(context)?;
    let certificates = Certificate::from_pem_bundle(&pem).with_context(context)?;
    if certificates.is_empty() {
        bail!("{}: it has none", context());
    }
    Ok(certificates)
}

/// Returns when the controller wants the request to be sent again.
fn retry_after(response: &Response) -> Duration {
    let header = response.headers().get(RETRY_AFTER);
    let seconds = header.and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(UPLOAD_RETRY_AFTER, Duration::from_secs)
}

/// Parses the JSON of a successful response.
///
/// # Errors
/// Returns an error if it is not what a fleet answers.
pub(crate) async fn read_json<T: DeserializeOwned>(response: Response) -> anyhow::Result<T> {
    let url = without_credentials(response.url().as_str());
    let bytes = response
        .bytes()
        .await
        .map_err(|e| anyhow!(e.without_url()))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        if error.is_data() {
            // A fleet answers, of another version.
            return anyhow!("{url} answers in a form that this version does not know ({error}): is the controller of the same version as this command?");
        }
        anyhow!("{url} does not answer as a fleet does: is it the URL of a controller?")
    })
}

/// Returns the response if its status is a success.
///
/// # Errors
/// Returns the message in the response's body, or its status if there is none.
pub(crate) async fn check_status(response: Response) -> anyhow::Result<Response> {
    if response.status().is_success() {
        return Ok(response);
    }
    let (status, url) = (response.status(), response.url().clone());
    let body = response.text().await.unwrap_or_default();
    let json: Value = serde_json::from_str(&body).unwrap_or_default();
    let url = without_credentials(url.as_str());
    match json["error"]["message"].as_str() {
        Some(message) => bail!("{message}"),
        None if wants_tls(status.as_u16(), &body) => {
            bail!("{url} is served with TLS: use https://")
        }
        None => bail!(
            "{url} answered {status}, which is not the answer of a fleet: is it the URL of a controller?"
        ),
    }
}
