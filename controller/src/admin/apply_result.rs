//! What applying a resource did.

use flotilla_core::json_value;
use flotilla_core::spec::FieldChange;
use serde::{Deserialize, Serialize};

use crate::store::{StoreError, StoreRevision};

/// What applying a resource did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApplyResult {
    /// The resource did not exist.
    Created,
    /// The resource existed with another content.
    Configured,
    /// The resource existed with the same content, and nothing was written.
    Unchanged,
}

/// What applying a resource did, in detail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What it did.
    pub result: ApplyResult,
    /// The fields that it changed. Empty unless the resource was configured.
    pub changes: Vec<FieldChange>,
    /// Whether the desired revision had failed and is tried again.
    pub retries_failed_revision: bool,
    /// The store revision that holds the resource.
    pub revision: StoreRevision,
}

pub(super) fn to_json(resource: &impl Serialize) -> Result<serde_json::Value, StoreError> {
    json_value::to_value(resource).map_err(|e| StoreError::Failed(e.to_string()))
}
