//! Bodies of responses, bounded in size and time.

use std::time::Duration;

use async_stream::try_stream;
use flotilla_core::generate::RequestError;
use futures::{Stream, StreamExt};
use reqwest::Response;

use super::error;
use super::limits::ServerTimeouts;

/// The piece type of reqwest's streams; `flotilla_core::Bytes` is an amount.
pub(super) type Piece = bytes::Bytes;

/// Returns the pieces of a body of at most `max_bytes`.
pub(super) fn pieces(
    response: Response,
    max_bytes: usize,
    timeouts: ServerTimeouts,
) -> impl Stream<Item = Result<Piece, RequestError>> + Send {
    let pieces = response.bytes_stream();
    let pieces = pieces.map(|piece| piece.map_err(|e| error::interrupted(&error::root_cause(&e))));
    bounded(pieces, max_bytes, timeouts)
}

fn bounded(
    pieces: impl Stream<Item = Result<Piece, RequestError>> + Send,
    max_bytes: usize,
    timeouts: ServerTimeouts,
) -> impl Stream<Item = Result<Piece, RequestError>> + Send {
    try_stream! {
        let mut pieces = std::pin::pin!(pieces);
        let mut bytes = 0_usize;
        let mut longest = timeouts.first_byte;
        loop {
            let piece = tokio::time::timeout(longest, pieces.next()).await;
            let piece = piece.map_err(|_| silent(longest))?;
            let Some(piece) = piece.transpose()? else {
                break;
            };
            bytes = bytes.saturating_add(piece.len());
            if bytes > max_bytes {
                Err::<(), _>(too_large(max_bytes))?;
            }
            longest = timeouts.silence;
            yield piece;
        }
    }
}

fn too_large(max_bytes: usize) -> RequestError {
    let what = format!("has more than {max_bytes} bytes, the most for this request");
    error::invalid(&what)
}

/// The error of a server that sent nothing for so long.
pub(super) fn silent(time: Duration) -> RequestError {
    RequestError::Upstream(format!(
        "The server has sent nothing for {} s.",
        time.as_secs_f32()
    ))
}

/// Reads the rest of a body of which `start` was read, at most `max_bytes` in all.
pub(super) async fn read_rest(
    start: Piece,
    mut pieces: impl Stream<Item = Result<Piece, RequestError>> + Unpin,
    max_bytes: usize,
) -> Result<Vec<u8>, RequestError> {
    let mut body = start.to_vec();
    while let Some(piece) = pieces.next().await {
        body.extend_from_slice(&piece?);
        if body.len() > max_bytes {
            return Err(too_large(max_bytes));
        }
    }
    Ok(body)
}

/// Reads at most `max_bytes` of a body, and what has come after `time`, whether or not it is complete.
pub(super) async fn read_start(response: Response, max_bytes: usize, time: Duration) -> Vec<u8> {
    let mut body = Vec::new();
    let mut pieces = response.bytes_stream();
    let read = async {
        while let Some(Ok(piece)) = pieces.next().await {
            body.extend_from_slice(&piece);
            if body.len() >= max_bytes {
                break;
            }
        }
    };
    // What has come by then says enough.
    let _ = tokio::time::timeout(time, read).await;
    body.truncate(max_bytes);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    #[tokio::test]
    async fn size_and_silence_of_a_body_are_bounded() {
        let timeouts = ServerTimeouts {
            silence: Duration::from_millis(20),
            ..ServerTimeouts::default()
        };
        let piece = || Ok(Piece::from_static(b"abcd"));
        let all = |pieces: Vec<_>| stream::iter(pieces);
        let read: Vec<_> = bounded(all(vec![piece(), piece()]), 8, timeouts)
            .collect()
            .await;
        assert_eq!(read, [piece(), piece()]);
        let read: Vec<_> = bounded(all(vec![piece(), piece()]), 7, timeouts)
            .collect()
            .await;
        assert_eq!(read.len(), 2);
        assert!(matches!(read[1], Err(RequestError::Upstream(_))));
        let silent = all(vec![piece()]).chain(stream::pending());
        let read: Vec<_> = bounded(silent, 8, timeouts).collect().await;
        assert_eq!(read[1], Err(super::silent(timeouts.silence)));
    }
}
