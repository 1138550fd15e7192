//! The preface of a reverse connection: the first bytes on a controller's link port.
//!
//! The agent opens all connections. On a connection that starts with HTTP/2's own preface, the
//! controller is the gRPC *server* (service `Fleet`). A reverse connection, on which the controller
//! is the gRPC *client* (service `Inference`), starts with the line `FLOTILLA/1 <session>\n`. After
//! that line it is plain HTTP/2 with the agent as the server.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: &[u8] = b"FLOTILLA/1 ";

/// Maximum length of a session token, in bytes.
const MAX_SESSION_BYTES: usize = 128;

/// Returns whether a connection that starts with `peeked` is a reverse connection. One byte is
/// enough: HTTP/2's preface starts with `P`.
#[must_use]
pub fn is_reverse_connection(peeked: &[u8]) -> bool {
    peeked.first() == MAGIC.first()
}

/// Writes the preface of a reverse connection for `session`.
///
/// # Errors
/// An error of the stream.
pub async fn write<S: AsyncWrite + Unpin>(stream: &mut S, session: &str) -> io::Result<()> {
    let line = [MAGIC, session.as_bytes(), b"\n"].concat();
    stream.write_all(&line).await?;
    stream.flush().await
}

/// Reads the preface that [`write()`] wrote and returns the session.
///
/// Reads byte by byte, so that the bytes after the preface stay in the stream.
///
/// # Errors
/// `InvalidData` when the line is not a preface, or an error of the stream.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a reverse connection");
    let mut line = Vec::with_capacity(MAGIC.len() + MAX_SESSION_BYTES);
    loop {
        let byte = stream.read_u8().await?;
        if byte == b'\n' {
            break;
        }
        line.push(byte);
        if line.len() > MAGIC.len() + MAX_SESSION_BYTES {
            return Err(invalid());
        }
    }
    let session = line.strip_prefix(MAGIC).ok_or_else(invalid)?;
    String::from_utf8(session.to_vec()).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_after_the_preface_stay_in_the_stream() {
        let (mut a, mut b) = tokio::io::duplex(1024);
        write(&mut a, "s1").await.unwrap();
        a.write_all(b"rest").await.unwrap();
        drop(a);
        assert_eq!(read(&mut b).await.unwrap(), "s1");
        let mut rest = String::new();
        b.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "rest");
    }

    #[tokio::test]
    async fn other_first_lines_are_invalid_data() {
        for bytes in [&b"HELLO s1\n"[..], &[b'F'; 500]] {
            let error = read(&mut &bytes[..]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
