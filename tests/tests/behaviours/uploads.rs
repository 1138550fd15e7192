//! Files that clients upload: bounded in number and size.

use std::net::SocketAddr;

use flotilla_tests::{Api, Cluster, DEADLINE, Mode, Process, address_in_line, flotilla_binary};
use reqwest::Response;
use serde_json::json;
use sha2::Digest;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::fixtures::{error_code, header};
use crate::small_disk::SmallDisk;

/// The digest of `abc`.
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// Begins an upload whose content does not come.
async fn begin_upload(api: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(api).await.unwrap();
    let head =
        format!("PUT /api/v1/blobs/{ABC} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n");
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

/// A file of 40 MiB, and its digest.
fn large_file(byte: u8) -> (Vec<u8>, String) {
    let content = vec![byte; 40 << 20];
    let digest = sha2::Sha256::digest(&content);
    let digits = digest.iter().map(|byte| format!("{byte:02x}"));
    (content, digits.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_nothing_needs_give_way_to_a_push_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let disk_dir = dir.path().join("disk");
    std::fs::create_dir(&disk_dir).unwrap();
    // Beside the reserve of 256 MiB there is room for one file.
    let Some(disk) = SmallDisk::mount(&disk_dir, 320) else {
        return;
    };
    let mut command = disk.command(flotilla_binary());
    let addresses = ["--http", "127.0.0.1:0", "--link", "127.0.0.1:0"];
    command.arg("controller").args(addresses);
    command.arg("--data-dir").arg(disk_dir.join("data"));
    let mut controller = Process::spawn(command);
    let http = address_in_line(&controller.wait_for_line("ready http="), "http");
    let api = Api::new(http);
    let client = reqwest::Client::new();
    let push = async |name: &str, (content, digest): (Vec<u8>, String)| {
        let file = json!({"path": "a.gguf", "size": content.len(), "sha256": digest});
        let (path, files) = (format!("api/v1/artifacts/{name}"), json!({"files": [file]}));
        assert_eq!(api.put(&path, &files).await.0, 202);
        let url = format!("http://{http}/api/v1/blobs/{digest}");
        let uploaded = client.put(&url).body(content).send().await.unwrap();
        if uploaded.status() != 201 {
            return error_code(uploaded).await.1;
        }
        assert_eq!(api.put(&path, &files).await.0, 201);
        json!("pushed")
    };
    assert_eq!(push("a", large_file(1)).await, "pushed");
    let digest = large_file(1).1;
    let stored = disk_dir.join("data/blobs").join(&digest[..2]).join(&digest);
    let mut touch = disk.command("touch");
    touch.args(["-d", "2 hours ago"]).arg(stored);
    assert!(touch.status().unwrap().success());
    assert_eq!(push("b", large_file(2)).await, "disk_full");
    let deleted = client.delete(format!("http://{http}/api/v1/artifacts/a"));
    assert!(deleted.send().await.unwrap().status().is_success());
    let pushed = async {
        while push("b", large_file(2)).await != "pushed" {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, pushed).await.unwrap();
    assert_eq!(api.get(&format!("api/v1/blobs/{digest}")).await.0, 404);
}
