//! The two kinds of revision, as two types that cannot be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A revision of what a model serves: a hash that changes when, and only when, nodes must load the
/// model anew. See [`Model::serving_revision`](crate::spec::Model::serving_revision). Revisions of
/// one model have no order.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ModelRevision(pub u64);

/// A point in the history of the fleet's store. Every write makes a later one. 0 is the point before
/// anything was written.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StoreRevision(pub u64);

impl ModelRevision {
    /// Returns the revision that the first eight bytes of a SHA-256 digest stand for.
    #[must_use]
    pub fn from_digest(digest: &[u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for ModelRevision {
    /// The first eight hexadecimal digits, which are enough for people to tell revisions apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 32)
    }
}

impl fmt::Display for StoreRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
