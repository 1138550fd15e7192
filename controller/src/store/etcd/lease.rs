//! A lease, kept alive for as long as it is held.

use std::time::Duration;

use async_trait::async_trait;
use etcd_client::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{EtcdStore, RETRY_PAUSE, within};
use crate::store::{Lease, LeaseId, StoreError};

/// A lease is renewed this often in its time to live.
const BEATS: u32 = 4;

/// A lease. Dropped without being revoked it runs out by itself.
pub(super) struct EtcdLease {
    store: EtcdStore,
    id: LeaseId,
    gone: CancellationToken,
    _keeper: AbortOnDropHandle<()>,
}

impl EtcdLease {
    /// A new lease. etcd counts in seconds and no less than its election needs.
    pub(super) async fn grant(store: &EtcdStore, ttl: Duration) -> Result<Self, StoreError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let mut client = store.client().await?;
        let id = within(client.lease_grant(seconds, None)).await?.id();
        let gone = CancellationToken::new();
        let keeper = tokio::spawn(keep(store.clone(), id, ttl / BEATS, gone.clone()));
        Ok(Self {
            store: store.clone(),
            id,
            gone,
            _keeper: AbortOnDropHandle::new(keeper),
        })
    }
}

#[async_trait]
impl Lease for EtcdLease {
    fn id(&self) -> LeaseId {
        self.id
    }

    async fn lost(&self) {
        self.gone.cancelled().await;
    }

    async fn revoke(&self) {
        let Ok(mut client) = self.store.client().await else {
            return;
        };
        // Without an answer the lease runs out by itself.
        if let Err(error) = within(client.lease_revoke(self.id)).await {
            tracing::debug!(%error, "a lease could not be given back");
        }
        self.gone.cancel();
    }
}

/// Keeps the lease alive until etcd says that it has run out. While etcd is away no lease
/// runs out, so silence alone ends nothing.
async fn keep(store: EtcdStore, id: LeaseId, beat: Duration, gone: CancellationToken) {
    loop {
        match renew(&store, id).await {
            Ok(true) => tokio::time::sleep(beat).await,
            Ok(false) => return gone.cancel(),
            Err(error) => {
                tracing::debug!(%error, "a lease could not be renewed");
                tokio::time::sleep(RETRY_PAUSE.min(beat)).await;
            }
        }
    }
}

/// Renews the lease once. Returns whether it still was there.
async fn renew(store: &EtcdStore, id: LeaseId) -> Result<bool, StoreError> {
    let mut client = store.client().await?;
    let renew = async {
        // Opening the stream renews the lease, and fails like this if it has run out.
        match client.lease_keep_alive(id).await {
            Ok(_) => Ok(true),
            Err(Error::LeaseKeepAliveError(_)) => Ok(false),
            Err(error) => Err(error),
        }
    };
    within(renew).await
}
