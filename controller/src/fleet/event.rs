//! The events that change the state of the fleet.

use std::sync::Arc;

use flotilla_core::{NodeName, StoreRevision};
use flotilla_proto::v1;

use super::{NodeLink, NodeRecord, SessionId};
use crate::store::{StoreChange, StoreEntry};

/// An event that changes the state of the fleet.
#[derive(Debug)]
pub enum FleetEvent {
    /// The whole store was read. Replaces everything that came from the store before.
    StoreSnapshot {
        /// All entries of the store.
        entries: Vec<StoreEntry>,
        /// The revision of the store that the entries are from.
        revision: StoreRevision,
    },
    /// One entry of the store changed.
    StoreChanged(StoreChange),
    /// The store stopped answering, with the error.
    StoreUnavailable(String),
    /// The store answers again.
    StoreAvailable,
    /// A node joined this controller. It is not ready before its first report.
    NodeJoined {
        /// The node.
        node: NodeName,
        /// The node's description of itself.
        record: NodeRecord,
        /// The new session. It replaces an earlier session of the node.
        link: Arc<NodeLink>,
    },
    /// A node reported its status.
    NodeReported {
        /// The node.
        node: NodeName,
        /// The session that the report belongs to. Reports of replaced sessions are ignored.
        session: SessionId,
        /// The status of every model on the node.
        models: Vec<v1::ModelStatus>,
        /// The node's energy status. `None` if it has not changed since the last report.
        energy: Option<v1::NodeEnergy>,
    },
    /// The number of a node's reverse connections changed.
    ConnectionsChanged {
        /// The node.
        node: NodeName,
    },
    /// A node's session ended.
    NodeLeft {
        /// The node.
        node: NodeName,
        /// The session that ended. Ends of replaced sessions are ignored.
        session: SessionId,
    },
}
