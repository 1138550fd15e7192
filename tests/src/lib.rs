//! The cluster harness: controllers and agents, in this process or as processes of the real
//! binary, started, watched and stopped, with what they leave behind checked at the end.
//!
//! Tests name the behaviour they prove and wait for conditions with a deadline, through
//! [`Cluster::until`]. Start reading at [`Cluster::start`].

mod api;
mod binary;
mod cluster;
pub mod collector;
mod etcd;
mod file_server;
pub mod http_load;
mod load;
mod member;
mod metered;
mod models;
mod ports;
mod process;
mod proxy;
pub mod sink;
pub mod soak;

pub use api::{Api, Counters};
pub use binary::{flotilla, repository};
pub use cluster::{Cluster, Mode};
pub use etcd::Etcd;
pub use file_server::FileServer;
pub use load::{Load, Tally};
pub use metered::FakeRapl;
pub use models::{demo_model, simulated_model};
pub use ports::free_address;
pub use process::{Process, address, open_files};
pub use proxy::Proxy;

/// How long anything may take that is waited for: far longer than it does, so that a busy
/// machine fails no test.
pub const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);
