//! Wall-clock time as the numbers that records, the API and the store keep.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The time since 1970; zero on a machine whose clock stands before that.
fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The current time in milliseconds since 1970.
#[must_use]
pub fn unix_millis() -> u64 {
    since_epoch().as_millis() as u64
}

/// The current time in seconds since 1970.
#[must_use]
pub fn unix_seconds() -> u64 {
    since_epoch().as_secs()
}
