//! One revision of a model on this node.

use std::sync::Arc;

use flotilla_core::{Bytes, ModelName, ModelRevision};

use tokio::task::AbortHandle;

use super::manager::InstanceId;
use super::{InstanceError, ServedModel};

/// One revision of a model on this node.
pub(super) struct ModelInstance {
    pub(super) id: InstanceId,
    pub(super) revision: ModelRevision,
    /// What it takes.
    pub(super) memory: Bytes,
    pub(super) phase: InstancePhase,
}

/// Where it is in its life.
pub(super) enum InstancePhase {
    /// Not begun: others have to leave before there is memory.
    Waiting,
    /// Not begun: the one whose place it takes has to leave before.
    Replaces,
    /// Its files are on their way.
    Fetching {
        _task: AbortOnDrop,
    },
    /// Being loaded.
    Loading,
    Ready(Arc<ServedModel>),
    /// Finishing its requests.
    Draining(Arc<ServedModel>),
    /// Being loaded in vain.
    Leaving,
    Gone,
    Failed(InstanceError),
}

/// A task that ends with it.
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ModelInstance {
    /// One that is no more.
    pub(super) fn gone() -> Self {
        Self {
            id: 0,
            revision: ModelRevision::default(),
            memory: Bytes(0),
            phase: InstancePhase::Gone,
        }
    }

    /// It cannot be served, for this reason.
    pub(super) fn fail(&mut self, name: &ModelName, error: InstanceError) {
        tracing::error!(model = %name, %error, "cannot be served");
        self.memory = Bytes(0);
        self.phase = InstancePhase::Failed(error);
    }

    /// Whatever counts its requests.
    pub(super) fn hosted(&self) -> Option<Arc<ServedModel>> {
        match &self.phase {
            InstancePhase::Ready(hosted) | InstancePhase::Draining(hosted) => Some(hosted.clone()),
            _ => None,
        }
    }
}
