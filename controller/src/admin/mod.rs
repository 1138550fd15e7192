//! The admin API behind the CLI and the page, under `/api/v1`: desired state, status, and the
//! reasons for both.
//!
//! It is HTTP with JSON on the port that also serves the OpenAI API, so that a user needs one
//! address only. A resource has the form of its YAML plus a `status`; errors have OpenAI's shape.
//!
//! Start reading at `router.rs`, which lists all routes. One file each holds the JSON shapes and
//! the handlers of a kind of resource; [`DesiredStateWriter`] is the only writer of resources.

mod apply_plan;
mod apply_result;
mod apply_warnings;
mod artifacts;
pub(crate) mod audit;
mod batch;
mod classifier;
mod controllers;
pub(crate) mod datasets;
pub(crate) mod decisions;
mod desired_state;
mod desired_state_batch;
mod enrolments;
mod errors;
mod example_suggestions;
mod fleet;
mod join_tokens;
mod keys;
pub(crate) mod live;
mod model_conditions;
mod model_status;
mod models;
mod node_rejections;
mod nodes;
mod off_thread;
mod other_controllers;
mod reported_defaults;
mod resources;
mod router;
mod state;
mod tasks;
mod watch;

pub use crate::traffic::{
    LatencyPercentiles, MeteredEnergy, RequestSummary, TrafficPoint, UsageTotal, UsageTotals,
};
pub use apply_result::{Applied, ApplyResult};
pub use artifacts::{ArtifactResource, MissingFiles};
pub use batch::{AppliedResource, ApplyBatchReply, DeleteBatch, DeleteBatchReply, ResourceName};
pub use classifier::ClassifierStatus;
pub use controllers::ControllerResource;
pub use datasets::{DatasetDeletion, DatasetSummary};
pub use decisions::DryRunResult;
pub use desired_state::DesiredStateWriter;
pub use fleet::{FleetIdentity, NewFleetId};
pub use join_tokens::{CreatedJoinToken, JoinTokenResource, NewJoinToken, authority_fingerprint};
pub use keys::{CreatedKey, PrincipalResource};
pub use model_status::{ModelStatus, ReplicaStatus};
pub use models::{AssignmentStatus, ModelResource};
pub use nodes::{
    BatteryJson, CountersJson, ModelOnNode, NodeEnergy, NodeMetadata, NodeResource, NodeStatus,
    REVOKED, UNREACHABLE,
};
pub(crate) use other_controllers::OtherControllers;
pub(crate) use router::router;
pub use state::ApplyReply;
pub(crate) use state::TrainedClassifiers;
pub use tasks::{Quality, RouterResource, TaskModel, TaskResource, TaskStatus};
