//! Flotilla's agent: runs the models of one node.
//!
//! It owns the life cycle and the admission queues of the models assigned to this node ([`models`]),
//! the processes that compute them (`runners`),
//! the division of large requests into turns (`turns`), the models' files, the links that it opens to
//! controllers, the gRPC service that it serves on those links, and the power meters ([`power`]) and
//! energy accounting ([`energy_accounting`]) of the machine.
//!
//! It knows nothing of other nodes, or of where models are placed and why: it follows the desired state
//! from the controllers and reports the status of its models.
//!
//! Start reading at [`Agent::start`], then [`models`].

mod agent;
mod artifacts;
mod config;
mod data_dir;
pub mod energy_accounting;
mod engines;
mod inference_service;
mod inventory;
mod link;
mod metrics_server;
pub mod models;
mod node_description;
mod node_metrics;
pub mod power;
mod request_metrics;
mod runners;
mod turns;
mod unstreamed_answer;

pub use agent::{Agent, AgentStartError};
pub use config::{AgentConfig, DEFAULT_FILE_RETENTION, NodeConfig};
pub use data_dir::DataDirError;
pub use flotilla_engine::{SecretSyntaxError, UpstreamSecret};
pub use inventory::default_memory;
pub use link::SecurityError;
pub use runners::{RunnerCommand, RunnerEngine};
