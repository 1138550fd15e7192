//! The connection to a controller's live feed, with reconnection.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::feed::{FeedEvent, FeedParser};
use crate::client::FleetClient;

/// Time without any data after which the connection counts as lost. A controller sends something at
/// least every ten seconds.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);
/// Shortest and longest pause before a reconnection, without jitter.
const MIN_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// An update from the connection.
#[derive(Debug)]
pub(super) enum FeedUpdate {
    /// Data arrived. Empty for a keep-alive and for an incomplete event.
    Events(Vec<FeedEvent>),
    /// The connection is lost. The next attempt starts after `pause`.
    Lost { problem: String, pause: Duration },
    /// An attempt to reconnect started.
    Reconnecting,
}

/// Sends updates until the receiver is closed. A slow receiver slows down the connection: updates do
/// not pile up.
pub(super) async fn follow_feed(fleet: &FleetClient, updates: &mpsc::Sender<FeedUpdate>) {
    let mut pauses = pauses();
    loop {
        let problem = match receive_events(fleet, updates, &mut pauses).await {
            Ok(()) => "the controller closed the connection".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        let pause = pauses.next().unwrap_or(MAX_PAUSE);
        if updates
            .send(FeedUpdate::Lost { problem, pause })
            .await
            .is_err()
        {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = updates.closed() => return,
        }
        if updates.send(FeedUpdate::Reconnecting).await.is_err() {
            return;
        }
    }
}

/// Connects and sends events until the connection ends. Received data resets `backoff`.
async fn receive_events(
    fleet: &FleetClient,
    updates: &mpsc::Sender<FeedUpdate>,
    backoff: &mut ExponentialBackoff,
) -> anyhow::Result<()> {
    let silence = |_| {
        anyhow::anyhow!(
            "the controller sent nothing for {} s",
            SILENCE_TIMEOUT.as_secs()
        )
    };
    let request = fleet.get_stream(&["api", "v1", "live"]);
    let response = timeout(SILENCE_TIMEOUT, request).await.map_err(silence)??;
    let mut chunks = response.bytes_stream();
    let mut parser = FeedParser::default();
    while let Some(chunk) = timeout(SILENCE_TIMEOUT, chunks.next())
        .await
        .map_err(silence)?
    {
        let chunk = chunk.map_err(|error| anyhow::anyhow!(error.without_url()))?;
        let events = parser.push(&chunk)?;
        *backoff = pauses();
        if updates.send(FeedUpdate::Events(events)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Returns pauses that double up to [`MAX_PAUSE`]. Jitter of up to 100 % keeps all commands from
/// reconnecting to a restarted controller at once.
fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(MIN_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_maximum() {
        let pauses: Vec<_> = pauses().take(100).collect();
        for (attempt, min_ms) in [(0, 250), (1, 500), (3, 2_000), (5, 5_000), (90, 5_000)] {
            let pause = pauses[attempt].as_millis();
            assert!(
                (min_ms..=2 * min_ms).contains(&pause),
                "{attempt}: {pause} ms"
            );
        }
    }
}
