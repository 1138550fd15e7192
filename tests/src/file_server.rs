//! A file server on loopback. It also speaks the part of the Hugging Face API that downloads a model.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::certificates::{Authority, TlsListener};

/// A running server of one folder. It stops when dropped.
pub struct FileServer {
    scheme: &'static str,
    address: SocketAddr,
    task: JoinHandle<()>,
}

struct Folder {
    dir: PathBuf,
    /// The token that requests for repositories must carry. `None` lets everyone in.
    token: Option<String>,
}

impl FileServer {
    /// Starts a server of the files in `dir`: under `/files/`, and as the contents of every repository,
    /// for which requests must carry `token` if there is one.
    ///
    /// # Panics
    /// Panics if there is no free port.
    pub async fn start(dir: PathBuf, token: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        Self::serve("http", listener, dir, token)
    }

    /// Starts a server with TLS, and returns it with the certificate of its authority in PEM.
    ///
    /// # Panics
    /// Panics if there is no free port.
    pub async fn start_with_tls(dir: PathBuf) -> (Self, String) {
        let authority = Authority::new();
        let listener = TlsListener::bind(&authority.issue()).await;
        (Self::serve("https", listener, dir, None), authority.pem())
    }

    fn serve<L>(scheme: &'static str, listener: L, dir: PathBuf, token: Option<&str>) -> Self
    where
        L: Listener<Addr = SocketAddr>,
    {
        let folder = Folder {
            dir,
            token: token.map(str::to_owned),
        };
        let router = Router::new()
            .route("/files/{file}", get(file))
            .route("/api/models/{owner}/{name}/revision/{revision}", get(info))
            .route("/{owner}/{name}/resolve/{revision}/{file}", get(resolve))
            .with_state(Arc::new(folder));
        let address = listener.local_addr().expect("it is bound");
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        });
        Self {
            scheme,
            address,
            task,
        }
    }

    /// Returns the URL of the server, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Returns the address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Folder {
    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        self.token.as_ref().is_none_or(|token| {
            let header = headers.get(header::AUTHORIZATION);
            header.is_some_and(|value| value.as_bytes() == format!("Bearer {token}").as_bytes())
        })
    }

    fn read(&self, file: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.join(file)).ok()
    }
}

/// Serves `/files/{file}`.
async fn file(State(folder): State<Arc<Folder>>, Path(file): Path<String>) -> Response {
    folder.read(&file).map_or_else(
        || StatusCode::NOT_FOUND.into_response(),
        IntoResponse::into_response,
    )
}

/// Lists the files of a repository.
async fn info(
    State(folder): State<Arc<Folder>>,
    Path((_, _, revision)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if !folder.is_authorized(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let entries = std::fs::read_dir(&folder.dir).expect("the folder exists");
    let siblings: Vec<_> = entries
        .flatten()
        .map(|entry| {
            let (name, size) = (entry.file_name(), entry.metadata().map_or(0, |m| m.len()));
            json!({"rfilename": name.to_string_lossy(), "size": size})
        })
        .collect();
    Json(json!({"sha": revision, "siblings": siblings})).into_response()
}

/// Serves a file of a repository, or the range of it that is requested.
async fn resolve(
    State(folder): State<Arc<Folder>>,
    Path((_, _, revision, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if !folder.is_authorized(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let Some(bytes) = folder.read(&file) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let range = headers.get(header::RANGE).and_then(|range| {
        let range = range.to_str().ok()?.strip_prefix("bytes=")?;
        let (from, to) = range.split_once('-')?;
        let last = bytes.len().saturating_sub(1);
        let to = to.parse().unwrap_or(last).min(last);
        Some((from.parse::<usize>().ok()?, to))
    });
    let (from, to) = range.unwrap_or((0, bytes.len().saturating_sub(1)));
    let commit = (http::HeaderName::from_static("x-repo-commit"), revision);
    let etag = (header::ETAG, format!("\"{file}\""));
    let content = (
        header::CONTENT_RANGE,
        format!("bytes {from}-{to}/{}", bytes.len()),
    );
    let part = bytes[from..=to].to_vec();
    let headers = [commit, etag, content];
    (StatusCode::PARTIAL_CONTENT, headers, part).into_response()
}
