//! The cluster harness: starts controllers and agents, watches them, stops them and checks that they
//! leave nothing behind. Members run inside the test's process or as processes of the real binary.
//!
//! The harness also owns the surroundings of a fleet: an etcd, a telemetry collector, a file server, a
//! breakable network line, a fake power meter, a fake upstream server and load generators. It knows nothing of single
//! behaviours; those are the tests in `tests/tests/`.
//!
//! A test waits for a condition with a deadline, through [`Cluster::wait_until`], never for an amount
//! of time. Start reading at [`Cluster::builder`].

#[path = "../../engine/src/test_adapters.rs"]
mod adapters;
mod agent_settings;
mod api;
mod binary;
mod certificates;
mod cluster;
mod cluster_builder;
pub mod collector;
mod etcd;
mod fake_rapl;
mod fake_upstream;
mod file_server;
pub mod http_load;
mod load;
mod member;
mod models;
mod polling;
mod ports;
mod proc_files;
mod process;
mod proxy;
pub mod soak;
pub mod telemetry_sink;

pub use adapters::{ConstantWord, write_constant_adapter};
pub use agent_settings::AgentSettings;
pub use api::{Api, Counters};
pub use binary::{flotilla_binary, repository};
pub use cluster::Cluster;
pub use cluster_builder::{ClusterBuilder, Mode};
pub use etcd::Etcd;
pub use fake_rapl::FakeRapl;
pub use fake_upstream::FakeUpstream;
pub use file_server::FileServer;
pub use load::{Load, LoadTally};
pub use models::{chat_model, demo_model, simulated_model};
pub use polling::{find_in_time, holds_in_time};
pub use ports::{any_port, free_address};
pub use proc_files::{is_running, open_files, resident_bytes, runners, send_signal};
pub use process::{CONTROLLER_ON_FREE_PORTS, Process, address_in_line};
pub use proxy::Proxy;

/// The longest time that a test waits for anything. It is far longer than anything takes, so that a
/// busy machine fails no test.
pub const DEADLINE: std::time::Duration = std::time::Duration::from_secs(60);
