//! Follows a controller's feed, and comes back by itself when it is lost.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::feed::{Event, Parser};
use crate::client::FleetClient;

/// A controller says something every second, or every ten at least: one that is silent for so long
/// is gone, though the connection may not know.
const SILENCE: Duration = Duration::from_secs(20);
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// News of the connection.
#[derive(Debug)]
pub(super) enum News {
    /// What the controller tells. None: it is there, and has nothing to tell.
    Heard(Vec<Event>),
    /// Why there is nothing more, and when it is tried again.
    Lost { problem: String, wait: Duration },
    /// It is tried again.
    Trying,
}

/// Follows the feed until nobody wants the news any more. Who is slow to take them slows the
/// connection, not the memory.
pub(super) async fn follow(fleet: &FleetClient, to: &mpsc::Sender<News>) {
    let mut failures = 0;
    loop {
        let problem = match stream(fleet, to, &mut failures).await {
            Ok(()) => "it has ended the connection".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        let wait = wait(failures);
        failures += 1;
        if to.send(News::Lost { problem, wait }).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = to.closed() => return,
        }
        if to.send(News::Trying).await.is_err() {
            return;
        }
    }
}

/// Reads the feed to its end. What was heard makes the failures before forgotten.
async fn stream(
    fleet: &FleetClient,
    to: &mpsc::Sender<News>,
    failures: &mut u32,
) -> anyhow::Result<()> {
    let silent = |_| anyhow::anyhow!("nothing was heard of it for {} s", SILENCE.as_secs());
    let open = fleet.get_stream(&["api", "v1", "live"]);
    let mut pieces = timeout(SILENCE, open)
        .await
        .map_err(silent)??
        .bytes_stream();
    let mut parser = Parser::default();
    while let Some(piece) = timeout(SILENCE, pieces.next()).await.map_err(silent)? {
        let piece = piece.map_err(|error| anyhow::anyhow!(error.without_url()))?;
        let events = parser.push(&piece)?;
        *failures = 0;
        if to.send(News::Heard(events)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Doubles, with a random part, so that a restarted controller is not met by everyone at once.
fn wait(failures: u32) -> Duration {
    let most = FIRST_WAIT * 2_u32.saturating_pow(failures.min(16));
    // A fresh hasher's keys are random: that is all the chance that is needed here.
    let random = RandomState::new().build_hasher().finish() % 1_000;
    most.min(LONGEST_WAIT)
        .mul_f64(0.5 + random as f64 / 2_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        for (failures, most) in [(0, 500), (1, 1_000), (3, 4_000), (5, 10_000), (90, 10_000)] {
            let wait = wait(failures).as_millis();
            assert!((most / 2..=most).contains(&wait), "{failures}: {wait}");
        }
    }
}
