//! Leases in etcd, renewed by a background task while they are held.

use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Client, Error};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::failure;
use super::members::{Members, TIMEOUT};
use crate::store::backoff::RetryDelays;
use crate::store::{Lease, LeaseId, StoreError};

/// Number of renewals per time to live.
const RENEWALS_PER_TTL: u32 = 4;

/// A lease. If it is dropped without being revoked, it expires after its time to live.
pub(super) struct EtcdLease {
    members: Members,
    id: LeaseId,
    /// Cancelled once the lease has ended.
    ended: CancellationToken,
    /// Renews the lease until this value is dropped.
    _renewal: AbortOnDropHandle<()>,
}

impl EtcdLease {
    /// Grants a lease. etcd rounds the time to live to seconds and enforces a minimum that
    /// depends on its election timeout.
    pub(super) async fn grant(members: &Members, ttl: Duration) -> Result<Self, StoreError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let grant = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        let id = members.call(TIMEOUT, grant).await?.id();
        let ended = CancellationToken::new();
        let renewal = Renewal {
            members: members.clone(),
            id,
            interval: ttl / RENEWALS_PER_TTL,
            timeout: TIMEOUT.min(ttl / 3),
        };
        let renewal = tokio::spawn(renewal.run(ended.clone()));
        Ok(Self {
            members: members.clone(),
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
        let id = self.id;
        let revoke = |mut client: Client| async move { client.lease_revoke(id).await };
        // If this fails, the lease expires after its time to live.
        if let Err(error) = self.members.call(TIMEOUT, revoke).await {
            tracing::debug!(%error, "the lease could not be revoked");
        }
        self.ended.cancel();
    }
}

/// Renews a lease over one stream, and over another one to another member when that fails.
struct Renewal {
    members: Members,
    id: LeaseId,
    interval: Duration,
    /// At most a third of the time to live, so that a member that does not answer leaves the time to
    /// ask another one.
    timeout: Duration,
}

impl Renewal {
    /// Runs until etcd reports that the lease has expired. While etcd is unavailable no lease
    /// expires, so that a failed renewal alone does not end the lease.
    async fn run(self, ended: CancellationToken) {
        let mut delays = RetryDelays::default();
        loop {
            match self.renew_over_one_stream(&mut delays).await {
                Ok(()) => return ended.cancel(),
                Err(error) => {
                    tracing::debug!(%error, "the lease could not be renewed");
                    tokio::time::sleep(delays.next_delay().min(self.interval)).await;
                }
            }
        }
    }

    /// Renews the lease until it has expired.
    ///
    /// # Errors
    /// When the stream has failed.
    async fn renew_over_one_stream(&self, delays: &mut RetryDelays) -> Result<(), StoreError> {
        let id = self.id;
        let open = |mut client: Client| async move {
            // Opening the stream renews the lease; this error means that it has expired.
            match client.lease_keep_alive(id).await {
                Ok(stream) => Ok(Some(stream)),
                Err(Error::LeaseKeepAliveError(_)) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let member = self.members.preferred();
        let Some((mut requests, mut replies)) = self.members.call(self.timeout, open).await? else {
            return Ok(());
        };
        loop {
            delays.reset();
            tokio::time::sleep(self.interval).await;
            let renew = async {
                requests.keep_alive().await?;
                replies.message().await
            };
            let failed = match tokio::time::timeout(self.timeout, renew).await {
                Ok(Ok(Some(reply))) if reply.ttl() > 0 => continue,
                Ok(Ok(Some(_))) => return Ok(()),
                Ok(Ok(None)) => StoreError::Etcd("the stream of renewals has ended".into()),
                Ok(Err(error)) => failure::classify(&error),
                Err(_) => StoreError::Etcd("a renewal was not answered in time".into()),
            };
            self.members.leave(member);
            return Err(failed);
        }
    }
}
