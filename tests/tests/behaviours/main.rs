//! The behaviours of whole fleets, each test named by the one it proves. One binary, since
//! each would link mistral.rs anew.

// A test that cannot go on fails, helpers included.
#![allow(clippy::unwrap_used)]

mod artifacts;
mod backup;
mod cascade;
mod changes;
mod choosing;
mod control_plane;
mod energy;
mod engines;
mod faults;
mod life_cycle;
mod prometheus;
mod resources;
mod routing;
mod soak;
mod store;
mod telemetry;
mod up;
