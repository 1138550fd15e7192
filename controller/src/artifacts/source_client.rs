//! The HTTP client for the sources of models: it resumes broken downloads, never waits for ever, and sends requests
//! only to the hosts that the controller's owner allows.
//!
//! It goes through the proxy of the environment (`HTTPS_PROXY`, `NO_PROXY`). The addresses of a host behind a proxy are
//! known only there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::header::{CONTENT_RANGE, ETAG, IF_RANGE, LOCATION, RANGE};
use http::{HeaderValue, StatusCode};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response, Url};
use serde::de::DeserializeOwned;

use super::source_hosts::{AllowedAddresses, SourceHosts, is_public, not_public};

/// Longest time until a server accepts a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a server may send nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a download is resumed without having received anything.
const MAX_RESUMES: u32 = 5;
/// Pause before a download is resumed.
const RESUME_DELAY: Duration = Duration::from_secs(2);

/// Largest list of files that is read, in bytes: ten times that of the repositories with the most files.
const MAX_JSON_BYTES: usize = 16 << 20;
/// Most redirects from one request to the next.
const MAX_REDIRECTS: u32 = 10;

/// A client of the servers that models come from. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SourceClient {
    /// Connects only to addresses that are allowed.
    direct: Client,
    /// Uses the proxies of the environment.
    proxied: Client,
    proxies: Arc<Matcher>,
    hosts: Arc<SourceHosts>,
}

/// Why a request has no response.
#[derive(Debug)]
enum RequestError {
    /// It was not sent, or led to where none may be sent.
    Refused(String),
    /// It failed.
    Failed(reqwest::Error),
}

impl RequestError {
    /// Whether the server has answered, or no attempt can succeed.
    fn is_final(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Failed(error) => error.is_status(),
        }
    }
}

/// Looks names up, and leaves out the addresses that are not allowed.
struct AllowedAddressResolver(Arc<SourceHosts>);

impl Resolve for AllowedAddressResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let hosts = self.0.clone();
        Box::pin(async move {
            let allowed = hosts.addresses(name.as_str());
            let addresses = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses: Vec<_> = addresses
                .filter(|address| match allowed {
                    AllowedAddresses::All => true,
                    AllowedAddresses::Public => is_public(address.ip()),
                    AllowedAddresses::None => false,
                })
                .collect();
            if addresses.is_empty() {
                return Err(not_public(name.as_str()).into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A download that can be resumed.
struct Download {
    client: SourceClient,
    url: String,
    token: Option<String>,
    response: Response,
    /// Identifies the content, so that the rest of another version is not appended.
    etag: Option<HeaderValue>,
    /// Bytes received so far.
    offset: u64,
}

impl SourceClient {
    /// Creates a client of these hosts that trusts the public authorities, and those whose certificates are in
    /// `ca`, in PEM.
    ///
    /// # Errors
    /// Certificates that cannot be parsed.
    pub(crate) fn new(hosts: SourceHosts, ca: Option<&[u8]>) -> Result<Self, reqwest::Error> {
        let hosts = Arc::new(hosts);
        let certificates = ca.map(Certificate::from_pem_bundle).transpose()?;
        let builder = || {
            let builder = Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                // Each hop of a redirect is checked as the first one is.
                .redirect(Policy::none());
            let certificates = certificates.iter().flatten().cloned();
            certificates.fold(builder, |builder, certificate| {
                builder.add_root_certificate(certificate)
            })
        };
        let resolver = Arc::new(AllowedAddressResolver(hosts.clone()));
        Ok(Self {
            direct: builder().no_proxy().dns_resolver(resolver).build()?,
            proxied: builder().build()?,
            proxies: Arc::new(Matcher::from_env()),
            hosts,
        })
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// A text that says what failed.
    pub(super) async fn get_json<T: DeserializeOwned>(
        &self,
        url: &str,
        token: Option<&str>,
    ) -> Result<T, String> {
        let mut response = self.request(url, token, None).await.map_err(text)?;
        let mut body = Vec::new();
        let failed = |error| text(RequestError::Failed(error));
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_JSON_BYTES {
                return Err(format!("the answer has more than {MAX_JSON_BYTES} bytes"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|e| format!("the answer is not as expected: {e}"))
    }

    /// Starts to download a file, and returns its size in bytes, if the server says it, and its content. A
    /// broken download is resumed where it broke off.
    ///
    /// # Errors
    /// A text that says why there is no answer. Later errors are in the stream.
    pub(super) async fn download(
        &self,
        url: &str,
        token: Option<&str>,
    ) -> Result<
        (
            Option<u64>,
            impl Stream<Item = Result<Bytes, String>> + Send + use<>,
        ),
        String,
    > {
        let response = self.request(url, token, None).await.map_err(text)?;
        let size = response.content_length();
        let etag = response.headers().get(ETAG);
        let download = Download {
            client: self.clone(),
            url: url.to_owned(),
            token: token.map(str::to_owned),
            etag: etag
                .filter(|etag| !etag.as_bytes().starts_with(b"W/"))
                .cloned(),
            response,
            offset: 0,
        };
        let chunks = futures::stream::try_unfold(download, async |mut download| {
            let chunk = download.next_chunk().await?;
            Ok(chunk.map(|chunk| (chunk, download)))
        });
        Ok((size, chunks))
    }

    /// Sends a request, for the rest from an offset of the version with an ETag if `rest` is set. Follows
    /// redirects, without the token where they lead to another server.
    async fn request(
        &self,
        url: &str,
        token: Option<&str>,
        rest: Option<(u64, &HeaderValue)>,
    ) -> Result<Response, RequestError> {
        let first = valid(Url::parse(url))?;
        let mut url = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client_for(&url)?.get(url.clone());
            if let Some(token) = token.filter(|_| url.origin() == first.origin()) {
                request = request.bearer_auth(token);
            }
            if let Some((offset, etag)) = rest {
                let range = format!("bytes={offset}-");
                request = request.header(RANGE, range).header(IF_RANGE, etag);
            }
            let response = request.send().await.map_err(RequestError::Failed)?;
            let location = response.headers().get(LOCATION);
            let Some(location) = location.filter(|_| response.status().is_redirection()) else {
                return response.error_for_status().map_err(RequestError::Failed);
            };
            url = valid(url.join(&String::from_utf8_lossy(location.as_bytes())))?;
        }
        Err(RequestError::Refused(format!(
            "the server redirects more than {MAX_REDIRECTS} times"
        )))
    }

    /// The client for a URL.
    fn client_for(&self, url: &Url) -> Result<&Client, RequestError> {
        if !matches!(url.scheme(), "http" | "https") {
            let problem = format!(
                "{}: is not supported, only http: and https: are",
                url.scheme()
            );
            return Err(RequestError::Refused(problem));
        }
        let host = url.host_str().unwrap_or_default();
        self.hosts.check(host).map_err(RequestError::Refused)?;
        let is_proxied = url
            .as_str()
            .parse()
            .is_ok_and(|uri| self.proxies.intercept(&uri).is_some());
        Ok(if is_proxied {
            &self.proxied
        } else {
            &self.direct
        })
    }
}

impl Download {
    /// The next chunk. `None` at the end.
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, String> {
        let mut resumes = 0;
        loop {
            let error = match self.response.chunk().await {
                Ok(chunk) => {
                    self.offset += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                    return Ok(chunk);
                }
                Err(error) => text(RequestError::Failed(error)),
            };
            // Hyper reports a body that ends early as an error, so this one is incomplete.
            while resumes < MAX_RESUMES {
                resumes += 1;
                tokio::time::sleep(RESUME_DELAY).await;
                if let Some(response) = self.resume().await? {
                    tracing::info!(url = self.url, offset = self.offset, "resuming a download");
                    self.response = response;
                    break;
                }
            }
            if resumes >= MAX_RESUMES {
                return Err(error);
            }
        }
    }

    /// Requests the rest. `None` when the server does not answer now.
    async fn resume(&self) -> Result<Option<Response>, String> {
        let Some(etag) = &self.etag else {
            return Err("the connection broke, and the server does not support resuming".into());
        };
        let token = self.token.as_deref();
        let rest = Some((self.offset, etag));
        match self.client.request(&self.url, token, rest).await {
            Ok(response) if continues_at(&response, self.offset) => Ok(Some(response)),
            Ok(_) => Err("the connection broke, and the file has changed meanwhile".into()),
            Err(error) if error.is_final() => Err(text(error)),
            Err(_) => Ok(None),
        }
    }
}

/// Whether a response is the rest of a file from this offset on.
fn continues_at(response: &Response, offset: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    let range = range.and_then(|range| range.to_str().ok());
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

fn valid(url: Result<Url, impl std::fmt::Display>) -> Result<Url, RequestError> {
    url.map_err(|error| RequestError::Refused(format!("the address is invalid: {error}")))
}

/// The messages of an error and of its causes, without the URL, which the caller names.
fn text(error: RequestError) -> String {
    let error = match error {
        RequestError::Refused(problem) => return problem,
        RequestError::Failed(error) => error.without_url(),
    };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers each connection in turn, and returns the requests.
    async fn answer(listener: TcpListener, answers: Vec<String>) -> Vec<String> {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4_096];
            let length = stream.read(&mut request).await.unwrap();
            requests.push(String::from_utf8_lossy(&request[..length]).to_lowercase());
            let answer = format!("HTTP/1.1 {answer}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        requests
    }

    #[tokio::test]
    async fn broken_download_continues_where_it_broke_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let answers = [
            "200 OK\r\nETag: \"1\"\r\nContent-Length: 10\r\n\r\n01234",
            "206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\n56789",
        ];
        let server = tokio::spawn(answer(listener, answers.map(str::to_owned).to_vec()));
        let client = SourceClient::new(SourceHosts::new(["127.0.0.1"]), None).unwrap();
        let (size, chunks) = client.download(&url, Some("token")).await.unwrap();
        assert_eq!(size, Some(10));
        let chunks: Vec<Bytes> = chunks.try_collect().await.unwrap();
        assert_eq!(chunks.concat(), b"0123456789");
        let requests = server.await.unwrap();
        assert!(requests[1].contains("range: bytes=5-"), "{requests:?}");
        assert!(requests[1].contains("if-range: \"1\""), "{requests:?}");
    }

    #[tokio::test]
    async fn request_goes_only_to_hosts_that_are_allowed_also_by_redirects_and_by_name() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let by_name = format!("http://localhost:{}/file", address.port());
        let by_address = format!("http://{address}/file");
        let fetch = async |hosts: &[&str], url: &str| {
            let client = SourceClient::new(SourceHosts::new(hosts), None).unwrap();
            let answered = client.request(url, Some("token"), None).await;
            answered.map_err(text).map(|response| response.status())
        };
        // Nothing reaches the server.
        for (hosts, url) in [
            (&["*"][..], &by_address),
            (&["*"], &by_name),
            (&["files.example"], &by_address),
        ] {
            let refused = fetch(hosts, url).await.unwrap_err();
            assert!(refused.contains("--source-host"), "{refused}");
        }
        let refused = fetch(&["*"], "file:///etc/passwd").await.unwrap_err();
        assert!(refused.contains("not supported"), "{refused}");

        let redirect = |to: &str| {
            format!("302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        };
        let inside = redirect("http://169.254.169.254/latest/meta-data");
        let relative = redirect("/other");
        let ok = "200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned();
        let other = redirect(&format!("http://localhost:{}/other", address.port()));
        let answers = vec![inside, relative, ok.clone(), other, ok];
        let server = tokio::spawn(answer(listener, answers));
        let refused = fetch(&["*", "127.0.0.1"], &by_address).await.unwrap_err();
        assert!(refused.contains("169.254.169.254"), "{refused}");
        assert_eq!(fetch(&["127.0.0.1"], &by_address).await, Ok(StatusCode::OK));
        let both = ["127.0.0.1", "localhost"];
        assert_eq!(fetch(&both, &by_address).await, Ok(StatusCode::OK));
        let requests = server.await.unwrap();
        let has_token = |request: &String| request.contains("authorization: bearer token");
        let tokens: Vec<_> = requests.iter().map(has_token).collect();
        // Not to another host.
        assert_eq!(tokens, [true, true, true, true, false]);
    }
}
