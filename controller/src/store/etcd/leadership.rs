//! Leadership in etcd: the leader binds [`keys::LEADER`] to a lease and keeps the lease alive.

use std::sync::Arc;

use async_trait::async_trait;
use etcd_client::{Client, Compare, CompareOp, PutOptions, Txn, TxnOp};

use super::lease::EtcdLease;
use super::members::TIMEOUT;
use super::{EtcdStore, store_revision};
use crate::store::{
    LEASE_TTL, Leadership, Lease, Precondition, Store, StoreError, StoreRevision, StoreWrite, keys,
};

struct EtcdLeadership {
    lease: EtcdLease,
    /// The revision of the write that made it the leader, unique to this leadership.
    revision: StoreRevision,
}

/// Acquires the leadership for the controller `id`, unless another one holds it.
pub(super) async fn try_lead(
    store: &EtcdStore,
    id: &str,
) -> Result<Option<Arc<dyn Leadership>>, StoreError> {
    // Reading first saves the standby controllers from granting and revoking a lease each time.
    if store.get(keys::LEADER).await?.is_some() {
        return Ok(None);
    }
    let lease = EtcdLease::grant(&store.members, LEASE_TTL).await?;
    let put = PutOptions::new().with_lease(lease.id());
    let transaction = Txn::new()
        .when([Compare::create_revision(keys::LEADER, CompareOp::Equal, 0)])
        .and_then([TxnOp::put(keys::LEADER, id, Some(put))]);
    let write = |mut client: Client| async move { client.txn(transaction).await };
    let reply = store.members.call(TIMEOUT, write).await?;
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
            precondition: Precondition::Revision(self.revision),
        })
    }

    async fn lost(&self) {
        self.lease.lost().await;
    }

    async fn resign(&self) {
        self.lease.revoke().await;
    }
}
