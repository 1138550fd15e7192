//! The decisions of Flotilla, as pure functions over plain data.
//!
//! This crate owns what a model or a node *is* and when it is valid ([`spec`]), where models
//! go ([`placement`]), how many times ([`scaling`]) and how they change ([`rollout`]), when a
//! node counts as there ([`health`]), which task a request belongs to and which replica answers
//! it ([`routing`], by what [`estimate`] and [`energy`] say of them and [`quality`] was measured), who is next
//! where requests wait ([`admission`]), what a request
//! and its answer consist of ([`generate`]), and which files a model is made of ([`artifact`]).
//!
//! It knows nothing of networks, files, clocks, randomness or async runtimes: time and chance
//! are passed in. Start reading at [`spec::Model`], then [`placement::solve`].

pub mod admission;
pub mod artifact;
pub mod energy;
pub mod estimate;
pub mod generate;
pub mod health;
pub mod name;
pub mod node;
pub mod placement;
pub mod quality;
pub mod revision;
pub mod rollout;
pub mod routing;
pub mod scaling;
pub mod spec;
pub mod units;

pub use name::{ArtifactName, ModelName, NodeName, RouterName, TaskName, ZoneName};
pub use revision::{ModelRevision, StoreRevision};
pub use units::{Bytes, HumanDuration, Joules, Watts};
