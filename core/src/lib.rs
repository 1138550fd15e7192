//! The decisions of Flotilla, as pure functions over plain data.
//!
//! This crate owns:
//!
//! - the resources and their validation ([`spec`]), and the files of a model ([`artifact`]);
//! - the placement of models on nodes ([`placement`]), the number of their replicas ([`scaling`]),
//!   the rollout of new revisions ([`rollout`]), the life cycle of nodes ([`health`]) and what happens
//!   when many are lost at once ([`loss_guard`]);
//! - the task of a request and the replica that answers it ([`routing`]), from estimates of time
//!   ([`estimate`]) and energy ([`energy`]) and from measured quality ([`quality`]);
//! - what the requests of a key may use ([`access`]), and the order of waiting requests ([`admission`]);
//! - how much of a disk files of models may take ([`disk`]), and when those go that no model needs
//!   ([`retention`]);
//! - what the fleet keeps of prompts and answers to learn from, and the examples that it suggests
//!   ([`dataset`]);
//! - requests, events and errors as all layers share them ([`generate`]), and how the JSON of clients is
//!   read ([`json`]).
//!
//! It knows nothing of networks, files, clocks, randomness or async runtimes: callers pass the time
//! and random numbers in. Start reading at [`spec::Model`], then [`placement::solve`].

pub mod access;
pub mod admission;
pub mod artifact;
pub mod dataset;
pub mod disk;
pub mod energy;
pub mod estimate;
pub mod generate;
pub mod health;
pub mod json;
pub mod json_value;
pub mod kept_state;
pub mod known_fields;
pub mod loss_guard;
pub mod name;
pub mod node;
mod normalized_text;
pub mod placement;
pub mod quality;
pub mod readiness;
pub mod retention;
pub mod revision;
pub mod revision_trial;
pub mod rollout;
pub mod routing;
pub mod scaling;
pub mod spec;
pub mod units;

pub use name::{ArtifactName, KeyName, ModelName, NodeName, RouterName, TaskName, ZoneName};
pub use readiness::ReplicaReadiness;
pub use revision::{ModelRevision, StateVersion, StoreRevision};
pub use units::{Bytes, HumanDuration, Joules, Watts};
