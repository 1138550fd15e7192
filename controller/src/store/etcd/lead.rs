//! Leading under a lease: the key of the leader lives as long as its lease is kept alive.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, Error, PutOptions, Txn, TxnOp};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Etcd, RETRY_PAUSE, within};
use crate::store::{Expect, Leadership, Revision, StoreError, Write, keys};

/// How long a leader may be silent before another takes over, in seconds.
const LEASE: i64 = 5;
/// How often it says that it is there.
const BEAT: Duration = Duration::from_millis(1_500);

struct EtcdLeadership {
    store: Etcd,
    lease: i64,
    /// The revision that made it the leader: no other leader has the same.
    revision: Revision,
    gone: CancellationToken,
    _keeper: AbortOnDropHandle<()>,
}

/// Leads if nobody does.
pub(super) async fn try_lead(store: &Etcd) -> Result<Option<Arc<dyn Leadership>>, StoreError> {
    let mut client = store.client().await?;
    let lease = within(client.lease_grant(LEASE, None)).await?.id();
    let put = PutOptions::new().with_lease(lease);
    let transaction = Txn::new()
        .when([Compare::create_revision(keys::LEADER, CompareOp::Equal, 0)])
        .and_then([TxnOp::put(keys::LEADER, "", Some(put))]);
    let reply = within(client.txn(transaction)).await?;
    if !reply.succeeded() {
        within(client.lease_revoke(lease)).await?;
        return Ok(None);
    }
    let revision = reply.header().map_or(0, |header| header.revision());
    let gone = CancellationToken::new();
    let keeper = tokio::spawn(keep(store.clone(), lease, gone.clone()));
    Ok(Some(Arc::new(EtcdLeadership {
        store: store.clone(),
        lease,
        revision: Revision::try_from(revision).unwrap_or_default(),
        gone,
        _keeper: AbortOnDropHandle::new(keeper),
    })))
}

/// Keeps the lease alive until etcd says that it has run out. While etcd is away no lease
/// runs out, so silence alone ends nothing: writes are fenced whatever is believed here.
async fn keep(store: Etcd, lease: i64, gone: CancellationToken) {
    loop {
        match beat(&store, lease).await {
            Ok(true) => tokio::time::sleep(BEAT).await,
            Ok(false) => return gone.cancel(),
            Err(error) => {
                tracing::warn!(%error, "the leader's lease could not be renewed");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Renews the lease once. Returns whether it still was there.
async fn beat(store: &Etcd, lease: i64) -> Result<bool, StoreError> {
    let mut client = store.client().await?;
    let renew = async {
        // Opening the stream renews the lease, and fails like this if it has run out.
        match client.lease_keep_alive(lease).await {
            Ok(_) => Ok(true),
            Err(Error::LeaseKeepAliveError(_)) => Ok(false),
            Err(error) => Err(error),
        }
    };
    within(renew).await
}

#[async_trait]
impl Leadership for EtcdLeadership {
    fn fence(&self) -> Option<Write> {
        Some(Write::Require {
            key: keys::LEADER.to_owned(),
            expect: Expect::Revision(self.revision),
        })
    }

    async fn lost(&self) {
        self.gone.cancelled().await;
    }

    async fn resign(&self) {
        let Ok(mut client) = self.store.client().await else {
            return;
        };
        // Without an answer the lease runs out by itself.
        if let Err(error) = within(client.lease_revoke(self.lease)).await {
            tracing::warn!(%error, "the leader's lease could not be given back");
        }
    }
}
