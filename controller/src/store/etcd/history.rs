//! Notices that etcd was put back to an earlier state, or replaced by another one.
//!
//! Revisions alone do not show it: a restored etcd may have overtaken the revision that was read last
//! before anybody looks. etcd's raft log tells it apart: its index grows with every entry of the log, and
//! begins anew with a restore. The id of the cluster changes as well if the restore was given another
//! token or other addresses.

use etcd_client::{Client, GetOptions, StatusResponse};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::members::{Members, TIMEOUT};
use crate::store::{StoreError, keys};

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LogPosition {
    cluster_id: u64,
    /// The index of the last entry of the raft log that a member had applied.
    applied_index: u64,
}

impl LogPosition {
    /// Returns whether a position that was read later can be of the same log.
    fn may_precede(self, later: Self) -> bool {
        self.cluster_id == later.cluster_id && self.applied_index <= later.applied_index
    }
}

/// Records a `position` that was read after `earlier` had been the last one. Other positions may have been
/// recorded while it was read. Returns whether it shows another history that was not noticed yet.
fn record(
    last: &mut Option<LogPosition>,
    earlier: Option<LogPosition>,
    position: LogPosition,
) -> bool {
    let is_other_history = earlier.is_some_and(|earlier| !earlier.may_precede(position));
    let follows_last = last.is_none_or(|last| last.may_precede(position));
    if is_other_history || follows_last {
        *last = Some(position);
    }
    is_other_history && !follows_last
}

/// The history of etcd, as far as it was observed.
pub(super) struct History {
    /// The newest position.
    last: Mutex<Option<LogPosition>>,
    /// How many other histories have followed the first one.
    changes: watch::Sender<u64>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            last: Mutex::new(None),
            changes: watch::Sender::new(0),
        }
    }
}

impl History {
    /// Returns a receiver that is notified when etcd has another history than before.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Compares etcd's history with the one that was observed before. Returns the status of the member that
    /// was asked.
    ///
    /// # Errors
    /// Those of the calls.
    pub(super) async fn observe(&self, members: &Members) -> Result<StatusResponse, StoreError> {
        let earlier = *self.last.lock();
        // After this read, which is linearizable, the member has applied all that was ever observed.
        let options = GetOptions::new().with_count_only();
        let read =
            |mut client: Client| async move { client.get(keys::FLEET_ID, Some(options)).await };
        let read = members.call(TIMEOUT, read).await?;
        let status = |mut client: Client| async move { client.status().await };
        let status = members.call(TIMEOUT, status).await?;
        let (Some(read), Some(header)) = (read.header(), status.header()) else {
            return Ok(status);
        };
        // The calls may have gone to different members.
        if read.member_id() != header.member_id() {
            return Ok(status);
        }
        let position = LogPosition {
            cluster_id: header.cluster_id(),
            applied_index: status.raft_applied_index(),
        };
        if record(&mut self.last.lock(), earlier, position) {
            tracing::warn!(
                "etcd was put back to an earlier state, or is another one: it is read anew"
            );
            self.changes.send_modify(|changes| *changes += 1);
        }
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_is_compared_with_those_that_were_known_before_it_was_read() {
        let position = |cluster_id, applied_index| LogPosition {
            cluster_id,
            applied_index,
        };
        let mut last = None;
        assert!(!record(&mut last, None, position(1, 5)));
        let earlier = last;
        assert!(!record(&mut last, earlier, position(1, 9)));
        // A slow observation of the same log is older than what was recorded meanwhile.
        assert!(!record(&mut last, earlier, position(1, 7)));
        assert_eq!(last, Some(position(1, 9)));
        // Of two observations at once, one notices the other history.
        let earlier = last;
        assert!(record(&mut last, earlier, position(2, 1)));
        assert!(!record(&mut last, earlier, position(2, 3)));
        assert_eq!(last, Some(position(2, 3)));
        // What was read before it is nothing new either.
        assert!(!record(&mut last, earlier, position(1, 10)));
        assert_eq!(last, Some(position(2, 3)));
    }

    #[test]
    fn log_that_begins_anew_or_is_another_clusters_is_noticed() {
        let position = |cluster_id, applied_index| LogPosition {
            cluster_id,
            applied_index,
        };
        assert!(position(1, 9).may_precede(position(1, 9)));
        assert!(position(1, 9).may_precede(position(1, 10)));
        assert!(!position(1, 9).may_precede(position(1, 8)));
        assert!(!position(1, 9).may_precede(position(2, 10)));
    }
}
