//! The first bytes of a connection to a controller's link port.
//!
//! A connection on which the controller shall be the gRPC *server* (join, sync) begins with
//! HTTP/2's own preface. One that is to be turned round, so that the controller is the
//! *client* (inference), begins with one line instead: `FLOTILLA/1 <session>\n`. After it the
//! connection is plain HTTP/2 with the agent as the server.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MAGIC: &[u8] = b"FLOTILLA/1 ";

/// Longest session text accepted.
const MAX_SESSION: usize = 128;

/// Whether a connection that begins with these bytes is meant to be turned round. `peeked`
/// holds at least one byte; HTTP/2's preface begins with `P`.
#[must_use]
pub fn is_reverse_connection(peeked: &[u8]) -> bool {
    peeked.first() == MAGIC.first()
}

/// Opens a reversed connection for `session`.
///
/// # Errors
/// Those of the stream.
pub async fn write<S: AsyncWrite + Unpin>(stream: &mut S, session: &str) -> io::Result<()> {
    let line = [MAGIC, session.as_bytes(), b"\n"].concat();
    stream.write_all(&line).await?;
    stream.flush().await
}

/// Reads the line that [`write`] wrote and returns the session.
///
/// Reads byte by byte so as to take nothing of what follows.
///
/// # Errors
/// `InvalidData` when the line is not a preface, else those of the stream.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<String> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "not a reversed connection");
    let mut line = Vec::with_capacity(MAGIC.len() + MAX_SESSION);
    loop {
        let byte = stream.read_u8().await?;
        if byte == b'\n' {
            break;
        }
        line.push(byte);
        if line.len() > MAGIC.len() + MAX_SESSION {
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
    async fn what_follows_the_line_is_left_in_the_stream() {
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
    async fn anything_else_is_refused() {
        for bytes in [&b"HELLO s1\n"[..], &[b'F'; 500]] {
            let error = read(&mut &bytes[..]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
