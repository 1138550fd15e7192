//! Flotilla's agent: one per node.
//!
//! Owns the  life cycle and the queues of the models
//! assigned to this node ([`models`]), the [`link`] it dials to a controller, and the gRPC
//! service it answers on that link ([`serve`]). Knows nothing of other nodes or of where
//! models are placed and why: it does what it is told and tells what it does.
//!
//! Start reading at [`Agent::start`], then [`models`].

mod artifacts;
mod config;
mod data_dir;
pub mod energy_accounting;
mod inventory;
mod link;
pub mod models;
mod node_metrics;
pub mod power;
mod run;
mod scrape;
mod serve;

pub use config::AgentConfig;
pub use inventory::default_memory;
pub use run::{Agent, AgentStartError};
