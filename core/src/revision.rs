//! The two kinds of revision, as two types that cannot be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A revision of a model: a hash that changes if, and only if, nodes must reload the model. See
/// [`Model::serving_revision`](crate::spec::Model::serving_revision). Revisions have no order.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ModelRevision(pub u64);

/// A revision of the fleet's store. It increases with every write; 0 is the empty store.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct StoreRevision(pub u64);

impl ModelRevision {
    /// Returns the revision made of the first eight bytes of a SHA-256 digest.
    #[must_use]
    pub fn from_digest(digest: &[u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Display for ModelRevision {
    /// Writes the first eight hexadecimal digits, which are enough for people to distinguish
    /// revisions.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0 >> 32)
    }
}

impl fmt::Display for StoreRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
