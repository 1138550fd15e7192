//! Why a model instance cannot serve.

use std::path::PathBuf;

use flotilla_core::Bytes;
use flotilla_engine::{LoadError, StuckProcess};

use crate::artifacts::ArtifactError;

/// Why a model instance cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InstanceError {
    /// The node has too little memory for the model.
    #[error("it needs about {needed} of memory, {free} are free")]
    Memory {
        /// The memory that the model would take.
        needed: Bytes,
        /// The memory that is free for models.
        free: Bytes,
    },
    /// The node's accelerator has too little memory for the model.
    #[error("it needs about {needed} of device memory, {free} are free")]
    DeviceMemory {
        /// The memory that the model would take.
        needed: Bytes,
        /// The memory that is free for models.
        free: Bytes,
    },
    /// The model's files could not be brought to this node.
    #[error(transparent)]
    Fetch(#[from] ArtifactError),
    /// The model's path is outside of the folders that the node's owner allows.
    #[error("the agent may not read models from {0}")]
    OutsideModelRoots(PathBuf),
    /// The engine could not load the model, or it stopped working.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A process of the model cannot be ended.
    #[error(transparent)]
    Stuck(#[from] StuckProcess),
}

impl InstanceError {
    /// What an operator can do about the error.
    pub(crate) fn remedy(&self) -> &'static str {
        match self {
            Self::DeviceMemory { .. } => {
                "remove a model from the node, quantise the model, lower its options.contextLength, or set spec.accelerator to cpu"
            }
            Self::Memory { .. } => {
                "remove a model from the node, add memory, raise --memory, quantise the model, or lower its \
                 options.contextLength"
            }
            Self::Fetch(error) => error.remedy(),
            Self::Load(error) => error.remedy(),
            Self::OutsideModelRoots(_) => {
                "put the files below a folder that the agent's --model-root names (/var/lib/flotilla/models by default), or add one"
            }
            Self::Stuck(process) => process.remedy(),
        }
    }
}
