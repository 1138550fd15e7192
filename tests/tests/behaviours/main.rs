//! The behaviours of whole fleets. Each test is named by the behaviour that it proves. All are one
//! binary, since each binary links mistral.rs.

// A test that cannot go on fails, helpers included.
#![allow(clippy::unwrap_used)]

mod access_keys;
mod access_of_people;
mod adapters;
mod admission;
mod backup_and_restore;
mod batches;
mod cascades;
mod cloned_machines;
mod connection_limits;
mod context_lengths;
mod controllers_behind_one_address;
mod controllers_on_etcd;
mod encoder_routing;
mod encryption;
mod energy_accounting;
mod enrolment;
mod fixtures;
mod flotilla_up;
mod key_fixtures;
mod large_requests;
mod learning;
mod load_sharing;
mod lost_files;
mod lost_nodes;
mod many_files;
mod model_files;
mod model_life_cycle;
mod node_faults;
mod one_fleet;
mod operator_mistakes;
mod owners_limits;
mod placement;
mod privacy_zones;
mod prometheus;
mod protected_fleet;
mod real_engines;
mod real_model;
mod replica_selection;
mod request_defaults;
mod restored_stores;
mod retries;
mod rollouts;
mod runners;
mod scaling;
mod silent_streams;
mod small_disk;
mod soak;
mod stopped_agents;
mod stopped_controllers;
mod store;
mod store_faults;
mod task_routing;
mod telemetry;
mod time_limits;
mod tool_prompts;
mod uploads;
mod upstream_servers;
