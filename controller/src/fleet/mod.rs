//! The controller's knowledge of the fleet: the desired state from the store and the status from
//! the links, joined into one immutable [`FleetView`] that readers share without locking.
//!
//! One task owns the state (`FleetState` in `state.rs`, plain data). Everybody else sends it events
//! through a [`FleetHandle`] and reads the views it publishes. The way of an event through the
//! files: `handle.rs` (the task), `state.rs` (applies the event), `decode.rs` (entries of the
//! store), `node.rs` with `node_health.rs` and `load_failures.rs` (status of nodes), and
//! `build_view.rs` (the next view).

mod build_view;
mod decode;
mod event;
mod handle;
mod ignored_parts;
mod join_refusals;
mod link;
mod load_failures;
mod lost_nodes;
mod manifests;
mod measured_memory;
mod node;
mod node_health;
mod node_report;
pub(crate) mod records;
mod replaced_revisions;
mod staged_store;
mod state;
mod store_availability;
mod stored_fleet_state;
mod view;

pub use event::FleetEvent;
pub use handle::FleetHandle;
pub use join_refusals::JoinRefusal;
pub use link::{NodeLink, SessionId};
pub use manifests::ModelManifests;
pub use node_report::{LastUse, NodeReport, ReportedStatus};
pub use records::{
    AssignmentRecord, ControllerRecord, DesiredRecord, FailedRevisionRecord, FetchRecord,
    LinkRecord, NodeOperationRecord, NodeRecord, StableRecord, WaitingRecord,
};
pub use replaced_revisions::ModelAtRevision;
pub(crate) use staged_store::has_fleet;
pub use view::{
    FleetView, LoadFailureView, ModelView, NodeEnrolment, NodePhase, NodeView, UndecodedEntries,
};
