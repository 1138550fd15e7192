//! HTTP/1.1 by hand, since a proper server cannot be made to misbehave.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::modes::{self, MODES};

/// One step of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Sends status and headers; the body follows in chunks.
    Head {
        status: u16,
        headers: Vec<(&'static str, String)>,
    },
    /// Sends a piece of the body.
    Piece(Vec<u8>),
    /// Sends a piece again and again until the client closes the connection.
    Forever(Vec<u8>),
    /// Pauses.
    Pause(Duration),
    /// Sends nothing until the client closes the connection.
    Silence,
    /// Closes the connection without an end of the body.
    Drop,
}

/// A request as far as the modes need it.
pub(super) struct ReceivedRequest {
    /// The first segment of the path, if it is not the API's version, else the model's name.
    pub(super) mode: String,
    /// The rest of the path, such as `chat/completions`.
    pub(super) endpoint: String,
    pub(super) body: Value,
    /// How many requests the server has received before.
    pub(super) number: usize,
}

/// Accepts connections until the task is aborted.
pub(super) async fn serve(listener: TcpListener, received: Arc<Mutex<Vec<Value>>>) {
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        connections.spawn(serve_connection(connection, received.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(connection: TcpStream, received: Arc<Mutex<Vec<Value>>>) {
    // Otherwise small pieces wait for each other.
    let _ = connection.set_nodelay(true);
    let mut connection = BufReader::new(connection);
    while let Ok(Some((path, body))) = read_request(&mut connection).await {
        if write_answer(&mut connection, answer(&path, body, &received))
            .await
            .is_err()
        {
            return;
        }
    }
}

fn answer(path: &str, body: Option<Value>, received: &Mutex<Vec<Value>>) -> Vec<Step> {
    let (mode, endpoint) = match path.trim_start_matches('/').split_once("v1/") {
        Some((mode, endpoint)) => (mode.trim_end_matches('/'), endpoint),
        None => ("", path),
    };
    match (path, body) {
        ("/received", _) => whole(&json!(*received.lock())),
        (_, Some(body)) => {
            let number = {
                let mut received = received.lock();
                received.push(body.clone());
                received.len() - 1
            };
            let named = body["model"].as_str().unwrap_or_default();
            let mode = if mode.is_empty() { named } else { mode };
            modes::answer(&ReceivedRequest {
                mode: mode.to_owned(),
                endpoint: endpoint.to_owned(),
                body,
                number,
            })
        }
        (_, None) => {
            let models = MODES
                .iter()
                .map(|mode| json!({"id": mode, "object": "model"}));
            whole(&json!({"object": "list", "data": models.collect::<Vec<_>>()}))
        }
    }
}

/// A complete JSON answer.
pub(super) fn whole(body: &Value) -> Vec<Step> {
    vec![
        head(200, "application/json"),
        Step::Piece(body.to_string().into_bytes()),
    ]
}

/// The start of an answer with a content type.
pub(super) fn head(status: u16, content_type: &str) -> Step {
    Step::Head {
        status,
        headers: vec![("content-type", content_type.to_owned())],
    }
}

/// Reads a request. Returns its path, and its body if it has one, or `None` at the connection's end.
async fn read_request(
    connection: &mut BufReader<TcpStream>,
) -> io::Result<Option<(String, Option<Value>)>> {
    let mut line = String::new();
    if connection.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        connection.read_line(&mut header).await?;
        let Some((name, value)) = header.split_once(':') else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await?;
    let body = (length > 0).then(|| serde_json::from_slice(&body).unwrap_or_default());
    Ok(Some((path, body)))
}

/// Writes an answer. An error is also the way in which it drops the connection.
async fn write_answer(connection: &mut BufReader<TcpStream>, steps: Vec<Step>) -> io::Result<()> {
    for step in steps {
        match step {
            Step::Head { status, headers } => {
                let mut head = format!("HTTP/1.1 {status} Fake\r\ntransfer-encoding: chunked\r\n");
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                head.push_str("\r\n");
                connection.write_all(head.as_bytes()).await?;
            }
            Step::Piece(piece) => write_chunk(connection, &piece).await?,
            Step::Forever(piece) => loop {
                write_chunk(connection, &piece).await?;
            },
            Step::Pause(duration) => tokio::time::sleep(duration).await,
            Step::Silence => {
                connection.read_u8().await?;
            }
            Step::Drop => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
        connection.flush().await?;
    }
    connection.write_all(b"0\r\n\r\n").await?;
    connection.flush().await
}

async fn write_chunk(connection: &mut BufReader<TcpStream>, piece: &[u8]) -> io::Result<()> {
    if piece.is_empty() {
        return Ok(());
    }
    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
    chunk.extend_from_slice(piece);
    chunk.extend_from_slice(b"\r\n");
    connection.write_all(&chunk).await
}
