//! Leadership and leases of the only process that has the file open.

use std::sync::Arc;

use async_trait::async_trait;

use super::{EmbeddedState, blocking};
use crate::store::{Leadership, Lease, LeaseId, StoreWrite};

/// The leadership of the only process that has the file open; it is never lost.
pub(super) struct EmbeddedLeadership;

#[async_trait]
impl Leadership for EmbeddedLeadership {
    fn fence(&self) -> Option<StoreWrite> {
        None
    }

    async fn lost(&self) {
        std::future::pending().await
    }

    async fn resign(&self) {}
}

/// A lease of the only process that has the file open; it lasts until it is revoked.
pub(super) struct EmbeddedLease {
    pub(super) inner: Arc<EmbeddedState>,
    pub(super) id: LeaseId,
}

#[async_trait]
impl Lease for EmbeddedLease {
    fn id(&self) -> LeaseId {
        self.id
    }

    async fn lost(&self) {
        std::future::pending().await
    }

    async fn revoke(&self) {
        let (inner, id) = (self.inner.clone(), self.id);
        if let Err(error) = blocking(move || inner.end_leases(Some(id))).await {
            tracing::warn!(%error, "the lease could not be ended");
        }
    }
}
