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
    /// The store was put back to an earlier state, or is another one: a snapshot follows.
    StorePutBack,
    /// The fleet that this controller belonged to when it ran last.
    EarlierFleet(String),
    /// What the controller had kept on its disk, while the store is away at the start. Ignored once
    /// the store was read.
    KeptState {
        /// The entries.
        entries: Vec<StoreEntry>,
        /// The revision of the store that the entries are from.
        revision: StoreRevision,
        /// When they were read from the store, in seconds since 1970.
        saved_at: u64,
    },
    /// The error for which the store takes no changes, though it can be read. `None`: it takes them.
    ChangesBlocked(Option<String>),
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
    /// Other machines reach this controller without TLS.
    RunsInsecurely,
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
