//! What users wish for, as resources in Kubernetes' form: `apiVersion`, `kind`, `metadata`,
//! `spec`. One file per kind. Reading a resource reports every fault with its field path.

mod engine;
mod fault;
mod model;
mod resource;
mod router;
mod scheduling;
mod source;
mod task;

pub use engine::{Dtype, EngineKind, EngineOptions, Pipeline};
pub use fault::{Fault, Faults};
pub use model::{Model, ModelSpec};
pub use resource::{API_VERSION, Metadata, Resource, ResourceError, documents, parse_yaml};
pub use router::{Abstain, Router, RouterSpec};
pub use scheduling::{Accelerator, Replicas, Taint, Toleration};
pub use source::{Format, HuggingFace, Sha256, Sha256Error, Source};
pub use task::{Hedge, Objective, Task, TaskSpec};
