//! What users wish for, as resources in Kubernetes' form: `apiVersion`, `kind`, `metadata`,
//! `spec`. One file per kind. Reading a resource reports every fault with its field path.

mod fault;
mod model;
mod resource;

pub use fault::{Fault, Faults};
pub use model::{Dtype, EngineKind, EngineOptions, Model, ModelSpec, Pipeline, Source};
pub use resource::{API_VERSION, Metadata, Resource, ResourceError, parse_yaml};
