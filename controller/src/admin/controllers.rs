//! Controllers as the API shows them.

use serde::{Deserialize, Serialize};

use crate::fleet::ControllerRecord;

/// A controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerResource {
    pub id: String,
    /// Whether it is the one that decides.
    pub leads: bool,
    /// Whether it is the one that was asked.
    pub this: bool,
    #[serde(flatten)]
    pub record: ControllerRecord,
}
