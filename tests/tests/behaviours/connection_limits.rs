//! Clients that open connections and say nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use flotilla_tests::{
    Api, Cluster, DEADLINE, Process, address_in_line, flotilla_binary, simulated_model,
};
use serde_json::json;

/// Opens connections that send the beginning of something and no more.
fn open_half(address: SocketAddr, count: usize, beginning: &[u8]) -> Vec<TcpStream> {
    let connect = |_| {
        let mut stream = TcpStream::connect(address).ok()?;
        // Fails if the controller has closed the connection already, as it may.
        let _ = stream.write_all(beginning);
        Some(stream)
    };
    (0..count).filter_map(connect).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_keep_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let binary = flotilla_binary().display().to_string();
    let limited = |arguments: &str| {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n 200; exec {binary} {arguments}");
        command.args(["-c", &script]).current_dir(dir.path());
        Process::spawn(command)
    };
    let mut controller = limited(
        "controller --http 127.0.0.1:0 --link 127.0.0.1:0 --store embedded:store --data-dir files",
    );
    let line = controller.wait_for_line("ready http=");
    let (http, link) = (
        address_in_line(&line, "http"),
        address_in_line(&line, "link"),
    );
    let half_open = [
        open_half(http, 250, b"GET /healthz HTTP/1.1\r\nHost: "),
        open_half(http, 250, b""),
        open_half(link, 250, b"PRI * HTTP/2.0\r\n"),
        open_half(link, 250, b"FLOTILLA/1 "),
    ];
    // A client gets in, and an agent links.
    let api = Api::new(http);
    assert_eq!(api.get("healthz").await.0, 200);
    let agent = Process::start(
        dir.path(),
        &[
            "agent",
            "--join",
            &link.to_string(),
            "--name",
            "n1",
            "--data-dir",
            "n1",
        ],
    );
    api.apply(&simulated_model("m", 1, &json!({}))).await;
    let is_ready = async {
        while api.ready_replicas("m").await != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, is_ready).await.unwrap();
    for _ in 0..20 {
        let fresh = Api::new(http);
        assert_eq!(fresh.chat("m", "hi", false).await.status(), 200);
    }
    drop(half_open);
    agent.stop();
    controller.stop();
}

#[tokio::test]
async fn body_that_trickles_in_is_refused_and_others_are_served_meanwhile() {
    let cluster = Cluster::builder().start().await;
    let beginning = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\
        Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"model\":";
    let slow = open_half(cluster.http_address(), 20, beginning.as_bytes());
    assert_eq!(cluster.api().get("healthz").await.0, 200);
    for stream in slow {
        let answer = tokio::task::spawn_blocking(move || {
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut answer = [0; 4_096];
            let length = (&stream).read(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[..length]).into_owned()
        });
        let answer = answer.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("request_timeout"), "{answer}");
    }
    cluster.stop().await;
}
