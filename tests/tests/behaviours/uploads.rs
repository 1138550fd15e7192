//! Files that clients upload: bounded in number and size.

use std::net::SocketAddr;

use flotilla_tests::{Cluster, Mode};
use reqwest::Response;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::fixtures::{error_code, header};

/// The digest of `abc`.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// Begins an upload whose content does not come.
async fn begin_upload(api: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(api).await.unwrap();
    let head = format!("PUT /api/v1/blobs/{ABC} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_at_once_and_their_sizes_are_limited() {
    let cluster = Cluster::builder().mode(Mode::Processes).start().await;
    let client = reqwest::Client::new();
    let url = format!("{}/api/v1/blobs/{ABC}", cluster.url());
    let upload = async |content: &'static str| -> Response {
        client.put(&url).body(content).send().await.unwrap()
    };
    let files = json!({"files": [{"path": "a.gguf", "size": 3, "sha256": ABC}]});
    let api = cluster.api();
    let (status, missing) = api.put("api/v1/artifacts/a", &files).await;
    assert_eq!(status, 202, "{missing}");
    let too_large = error_code(upload("abcd").await).await;
    assert_eq!(too_large, (413, json!("file_too_large")));

    // Each attempt leaves one more upload running, until another one is refused.
    let mut running = Vec::new();
    while upload("abc").await.status() != 429 {
        assert!(running.len() < 100, "nothing is refused");
        running.push(begin_upload(cluster.http_address()).await);
    }
    let refused = upload("abc").await;
    assert_eq!(header(&refused, "retry-after"), "5");
    assert_eq!(error_code(refused).await.1, "too_many_uploads");
    drop(running);
    let is_stored = async || upload("abc").await.status() == 201;
    cluster.wait_until(is_stored).await;
    let (status, missing) = api.put("api/v1/artifacts/a", &files).await;
    assert_eq!(status, 201, "{missing}");
    cluster.stop().await;
}
