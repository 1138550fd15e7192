//! A server of files on loopback, which also speaks as much of Hugging Face's API as is needed
//! to download a model.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server of one folder. Stops when dropped.
pub struct FileServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

struct Folder {
    dir: PathBuf,
    /// What a client has to show, if anything.
    token: Option<String>,
}

impl FileServer {
    /// Serves the files in `dir`, to those who show `token` if there is one.
    ///
    /// # Panics
    /// When there is no port.
    pub async fn start(dir: PathBuf, token: Option<&str>) -> Self {
        let folder = Folder {
            dir,
            token: token.map(str::to_owned),
        };
        let router = Router::new()
            .route("/files/{file}", get(file))
            .route("/api/models/{owner}/{name}/revision/{revision}", get(info))
            .route("/{owner}/{name}/resolve/{revision}/{file}", get(resolve))
            .with_state(Arc::new(folder));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let task = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        });
        Self { address, task }
    }

    /// Its address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Folder {
    fn lets_in(&self, headers: &HeaderMap) -> bool {
        self.token.as_ref().is_none_or(|token| {
            let shown = headers.get(header::AUTHORIZATION);
            shown.is_some_and(|shown| shown.as_bytes() == format!("Bearer {token}").as_bytes())
        })
    }

    fn read(&self, file: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.join(file)).ok()
    }
}

async fn file(State(folder): State<Arc<Folder>>, Path(file): Path<String>) -> Response {
    folder.read(&file).map_or_else(
        || StatusCode::NOT_FOUND.into_response(),
        IntoResponse::into_response,
    )
}

/// What a repository holds.
async fn info(
    State(folder): State<Arc<Folder>>,
    Path((_, _, revision)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if !folder.lets_in(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let entries = std::fs::read_dir(&folder.dir).expect("the folder is there");
    let names = entries.flatten().map(|entry| entry.file_name());
    let siblings: Vec<_> = names
        .map(|name| json!({"rfilename": name.to_string_lossy()}))
        .collect();
    Json(json!({"sha": revision, "siblings": siblings})).into_response()
}

/// A file of a repository, or a part of it.
async fn resolve(
    State(folder): State<Arc<Folder>>,
    Path((_, _, revision, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    if !folder.lets_in(&headers) {
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
