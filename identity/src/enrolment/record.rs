//! The record of a node that has enrolled.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_core::ZoneName;
use flotilla_core::spec::Sha256Digest;
use serde::{Deserialize, Serialize};

/// What the fleet knows of a node by its enrolment. It is stored under the node's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolment {
    /// The privacy zones that the node is in.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub zones: BTreeSet<ZoneName>,
    /// The protected labels: those of these keys that the node's agent is started with do not count.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The SHA-256 digest of the node's public key (the DER of SubjectPublicKeyInfo).
    pub key: Sha256Digest,
    /// The id of the join token that the node enrolled with.
    pub token: String,
    /// When the node enrolled, in seconds since 1970.
    pub enrolled: u64,
    /// When the node was revoked, in seconds since 1970. `None`: it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}
