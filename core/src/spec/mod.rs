//! What users wish for, as resources in Kubernetes' form: `apiVersion`, `kind`, `metadata`,
//! `spec`. One file per kind. Reading a resource reports every fault with its field path.

mod engine;
mod field_error;
mod model;
mod resource;
mod router;
mod scheduling;
mod source;
mod task;

pub use engine::{Dtype, EngineKind, EngineOptions, Pipeline};
pub use field_error::{FieldError, ValidationErrors};
pub use model::{Model, ModelSpec};
pub use resource::{API_VERSION, Metadata, Resource, ResourceError, parse_documents, parse_yaml};
pub use router::{AbstainRule, Router, RouterSpec};
pub use scheduling::{Accelerator, Replicas, Taint, Toleration};
pub use source::{HuggingFaceSource, ModelFormat, ModelSource, ParseDigestError, Sha256Digest};
pub use task::{HedgeSpec, ObjectiveSpec, Task, TaskSpec};
