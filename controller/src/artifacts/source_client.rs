//! The HTTP client for the sources of models: it resumes broken downloads, and never waits for ever.
//!
//! It goes through the proxy of the environment (`HTTPS_PROXY`, `NO_PROXY`).

use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use http::{HeaderValue, StatusCode};
use reqwest::{Certificate, Client, Response};
use serde::de::DeserializeOwned;

/// Longest time until a server accepts a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a server may send nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a download is resumed without having received anything.
const MAX_RESUMES: u32 = 5;
/// Pause before a download is resumed.
const RESUME_DELAY: Duration = Duration::from_secs(2);

/// A client of the servers that models come from. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SourceClient {
    client: Client,
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
    /// Creates a client that trusts the public authorities, and those whose certificates are in `ca`,
    /// in PEM.
    ///
    /// # Errors
    /// Certificates that cannot be parsed.
    pub(crate) fn new(ca: Option<&[u8]>) -> Result<Self, reqwest::Error> {
        let mut builder = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT);
        if let Some(ca) = ca {
            for certificate in Certificate::from_pem_bundle(ca)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let client = builder.build()?;
        Ok(Self { client })
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
        let response = self.request(url, token, None).await.map_err(text)?;
        response.json().await.map_err(text)
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

    /// Sends a request, for the rest from an offset of the version with an ETag if `rest` is set.
    async fn request(
        &self,
        url: &str,
        token: Option<&str>,
        rest: Option<(u64, &HeaderValue)>,
    ) -> reqwest::Result<Response> {
        let mut request = self.client.get(url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some((offset, etag)) = rest {
            let range = format!("bytes={offset}-");
            request = request.header(RANGE, range).header(IF_RANGE, etag);
        }
        request.send().await?.error_for_status()
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
                Err(error) => text(error),
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
            Err(error) if error.is_status() => Err(text(error)),
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

/// The messages of an error and of its causes, without the URL, which the caller names.
fn text(error: reqwest::Error) -> String {
    let error = error.without_url();
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

    #[tokio::test]
    async fn broken_download_continues_where_it_broke_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let answers = [
                "200 OK\r\nETag: \"1\"\r\nContent-Length: 10\r\n\r\n01234",
                "206 Partial Content\r\nContent-Range: bytes 5-9/10\r\nContent-Length: 5\r\n\r\n56789",
            ];
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
        });
        let client = SourceClient::new(None).unwrap();
        let (size, chunks) = client.download(&url, Some("token")).await.unwrap();
        assert_eq!(size, Some(10));
        let chunks: Vec<Bytes> = chunks.try_collect().await.unwrap();
        assert_eq!(chunks.concat(), b"0123456789");
        let requests = server.await.unwrap();
        assert!(requests[1].contains("range: bytes=5-"), "{requests:?}");
        assert!(requests[1].contains("if-range: \"1\""), "{requests:?}");
    }
}
