//! The models of this node: their life cycle, and the admission queue in front of each.
//!
//! `ModelManager` is one task that makes the running instances follow the desired state.
//! Its decisions are pure functions:
//! - `instance.rs` is the state machine of one instance, from waiting over ready to gone;
//! - `reconcile.rs` decides which instance of a model starts or stops next;
//! - `memory_budget.rs` decides whether there is memory for another instance, and `memory_usage.rs` what
//!   a loaded one is charged;
//! - `restarts.rs` decides when an instance whose process has ended starts again.
//!
//! `instance_tasks.rs` does the work that takes time, and `model_status.rs` holds what the node reports.
//!
//! A request looks its model up in the [`ServingTable`], is admitted by the [`ServedModel`], and holds
//! an [`AdmittedRequest`] until its answer is complete. A request with several turns holds an
//! `AdmittedSplit` too, which admits them one by one.

mod admission_queue;
mod admitted_request;
mod desired_model;
mod instance;
mod instance_error;
mod instance_tasks;
mod live_counters;
mod manager;
mod memory_budget;
mod memory_usage;
mod model_status;
mod node_gpus;
mod reconcile;
mod restarts;
mod served_model;
mod serving_table;
mod spent_energy;
mod status_message;
mod tracked_events;

pub use admitted_request::AdmittedRequest;
pub(crate) use admitted_request::AdmittedSplit;
pub use desired_model::DesiredModel;
pub(crate) use desired_model::DesiredModels;
use instance_error::InstanceError;
pub(crate) use manager::{ModelManager, ModelManagerConfig};
pub(crate) use memory_budget::NodeMemory;
pub(crate) use model_status::ModelStatuses;
pub(crate) use node_gpus::NodeGpus;
pub(crate) use served_model::CUT_TIME;
pub use served_model::ServedModel;
#[cfg(test)]
pub(crate) use served_model::tests::{serve, serving_table};
pub use serving_table::ServingTable;
pub(crate) use spent_energy::SpentEnergy;
pub use tracked_events::TrackedEvents;
pub(crate) use tracked_events::record_usage;
