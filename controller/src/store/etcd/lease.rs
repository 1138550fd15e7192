//! Leases in etcd, renewed by a background task while they are held.

use std::time::Duration;

use async_trait::async_trait;
use etcd_client::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{EtcdStore, with_timeout};
use crate::store::backoff::RetryDelays;
use crate::store::{Lease, LeaseId, StoreError};

/// Number of renewals per time to live.
const RENEWALS_PER_TTL: u32 = 4;

/// A lease. If it is dropped without being revoked, it expires after its time to live.
pub(super) struct EtcdLease {
    store: EtcdStore,
    id: LeaseId,
    /// Cancelled once the lease has ended.
    ended: CancellationToken,
    /// Renews the lease until this value is dropped.
    _renewal: AbortOnDropHandle<()>,
}

impl EtcdLease {
    /// Grants a lease. etcd rounds the time to live to seconds and enforces a minimum that
    /// depends on its election timeout.
    pub(super) async fn grant(store: &EtcdStore, ttl: Duration) -> Result<Self, StoreError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let mut client = store.client().await?;
        let id = with_timeout(client.lease_grant(seconds, None)).await?.id();
        let ended = CancellationToken::new();
        let interval = ttl / RENEWALS_PER_TTL;
        let renewal = tokio::spawn(keep_alive(store.clone(), id, interval, ended.clone()));
        Ok(Self {
            store: store.clone(),
            id,
            ended,
            _renewal: AbortOnDropHandle::new(renewal),
        })
    }
}

#[async_trait]
impl Lease for EtcdLease {
    fn id(&self) -> LeaseId {
        self.id
    }

    async fn lost(&self) {
        self.ended.cancelled().await;
    }

    async fn revoke(&self) {
        let Ok(mut client) = self.store.client().await else {
            return;
        };
        // If this fails, the lease expires after its time to live.
        if let Err(error) = with_timeout(client.lease_revoke(self.id)).await {
            tracing::debug!(%error, "the lease could not be revoked");
        }
        self.ended.cancel();
    }
}

/// Renews the lease until etcd reports that it has expired. While etcd is unavailable no lease
/// expires, so that a failed renewal alone does not end the lease.
async fn keep_alive(store: EtcdStore, id: LeaseId, interval: Duration, ended: CancellationToken) {
    let mut delays = RetryDelays::default();
    loop {
        match renew(&store, id).await {
            Ok(true) => {
                delays.reset();
                tokio::time::sleep(interval).await;
            }
            Ok(false) => return ended.cancel(),
            Err(error) => {
                tracing::debug!(%error, "the lease could not be renewed");
                tokio::time::sleep(delays.next_delay().min(interval)).await;
            }
        }
    }
}

/// Renews the lease once. Returns whether it still existed.
async fn renew(store: &EtcdStore, id: LeaseId) -> Result<bool, StoreError> {
    let mut client = store.client().await?;
    let renew = async {
        // Opening the stream renews the lease; this error means that it has expired.
        match client.lease_keep_alive(id).await {
            Ok(_) => Ok(true),
            Err(Error::LeaseKeepAliveError(_)) => Ok(false),
            Err(error) => Err(error),
        }
    };
    with_timeout(renew).await
}
