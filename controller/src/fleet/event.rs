//! The events that change the state of the fleet.

use std::sync::Arc;

use super::{JoinRefusal, NodeLink, NodeRecord, ReportedStatus, SessionId};
use crate::store::{StoreChange, StoreEntry};
use flotilla_core::{NodeName, StoreRevision};

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
        /// What it reported.
        status: ReportedStatus,
    },
    /// A node was refused when it joined this controller.
    JoinRefused(JoinRefusal),
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
