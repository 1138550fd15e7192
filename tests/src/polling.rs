//! Waiting for what has no event.

use std::time::Duration;

use crate::DEADLINE;

/// How often it is looked whether something has come.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Calls `find` again and again until it returns a value, and returns that. `None` once [`DEADLINE`] has passed.
pub async fn find_in_time<T>(find: impl AsyncFn() -> Option<T>) -> Option<T> {
    let poll = async {
        let mut tick = tokio::time::interval(POLL_INTERVAL);
        loop {
            if let Some(value) = find().await {
                return value;
            }
            tick.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.ok()
}

/// Checks `condition` again and again. Returns whether it has held before [`DEADLINE`] had passed.
pub async fn holds_in_time(condition: impl AsyncFn() -> bool) -> bool {
    let find = async || condition().await.then_some(());
    find_in_time(find).await.is_some()
}
