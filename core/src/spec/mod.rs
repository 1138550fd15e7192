//! The desired state of a fleet, as resources in the form of Kubernetes: `apiVersion`, `kind`,
//! `metadata`, `spec`.
//!
//! Each kind has a file: [`Model`], [`Task`], [`Router`]. Reading a resource validates it and
//! reports every invalid field with its path. The doc comments of these types are the reference
//! of the YAML format.

mod adapter;
mod changes;
mod engine;
mod field_error;
mod learn;
mod model;
mod model_defaults;
mod resource;
mod router;
mod scheduling;
mod schema;
mod source;
mod task;

pub use changes::{FieldChange, changed_fields};
pub use engine::{DEFAULT_CONTEXT_LENGTH, Dtype, EngineKind, EngineOptions, KvCacheType, Pipeline};
pub use field_error::{FieldError, ValidationErrors};
pub use learn::{LearnSource, LearnSources, LearnSpec};
pub use model::{Model, ModelSpec};
pub use model_defaults::{DEFAULT_MAX_TOKENS, RequestDefaults, SystemPrompt, SystemPromptMode};
pub use resource::{
    API_VERSION, KINDS, Metadata, Resource, ResourceError, parse_documents, parse_yaml,
};
pub use router::{AbstainRule, Router, RouterSpec};
pub use scheduling::{Accelerator, Replicas, Taint, Toleration};
pub use schema::json_schema;
pub use source::{HuggingFaceSource, ModelFormat, ModelSource, ParseDigestError, Sha256Digest};
pub(crate) use task::MAX_EXAMPLE_BYTES;
pub use task::{HedgeSpec, ObjectiveSpec, Task, TaskSpec};
