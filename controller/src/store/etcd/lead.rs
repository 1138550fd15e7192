//! Leading under a lease: the key of the leader lives as long as its lease is kept alive.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};

use super::lease::EtcdLease;
use super::store_revision;
use super::{EtcdStore, within};
use crate::store::{Leadership, Lease, Precondition, StoreError, StoreRevision, StoreWrite, keys};

/// How long a leader may be silent before another takes over.
const TTL: Duration = Duration::from_secs(5);

struct EtcdLeadership {
    lease: EtcdLease,
    /// The revision that made it the leader: no other leader has the same.
    revision: StoreRevision,
}

/// Leads if nobody does.
pub(super) async fn try_lead(
    store: &EtcdStore,
    who: &str,
) -> Result<Option<Arc<dyn Leadership>>, StoreError> {
    let mut client = store.client().await?;
    // Asked first, so that those that stand by do not make and drop a lease each time.
    if !within(client.get(keys::LEADER, None))
        .await?
        .kvs()
        .is_empty()
    {
        return Ok(None);
    }
    let lease = EtcdLease::grant(store, TTL).await?;
    let put = PutOptions::new().with_lease(lease.id());
    let transaction = Txn::new()
        .when([Compare::create_revision(keys::LEADER, CompareOp::Equal, 0)])
        .and_then([TxnOp::put(keys::LEADER, who, Some(put))]);
    let reply = within(client.txn(transaction)).await?;
    if !reply.succeeded() {
        lease.revoke().await;
        return Ok(None);
    }
    let revision = reply.header().map_or(0, |header| header.revision());
    Ok(Some(Arc::new(EtcdLeadership {
        lease,
        revision: store_revision(revision),
    })))
}

#[async_trait]
impl Leadership for EtcdLeadership {
    fn fence(&self) -> Option<StoreWrite> {
        Some(StoreWrite::Require {
            key: keys::LEADER.to_owned(),
            expect: Precondition::Revision(self.revision),
        })
    }

    async fn lost(&self) {
        self.lease.lost().await;
    }

    async fn resign(&self) {
        self.lease.revoke().await;
    }
}
