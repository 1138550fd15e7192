//! One revision of a model on this node.

use std::sync::Arc;

use flotilla_core::{Bytes, ModelName};

use tokio::task::AbortHandle;

use super::Hosted;
use super::manager::PartId;
use crate::engine::LoadError;

/// One revision of a model on this node.
pub(super) struct Part {
    pub(super) id: PartId,
    pub(super) revision: u64,
    /// What it takes.
    pub(super) memory: Bytes,
    pub(super) phase: Phase,
}

/// Where it is in its life.
pub(super) enum Phase {
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
    Ready(Arc<Hosted>),
    /// Finishing its requests.
    Draining(Arc<Hosted>),
    /// Being loaded in vain.
    Leaving,
    Gone,
    Failed(LoadError),
}

/// A task that ends with it.
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Part {
    /// One that is no more.
    pub(super) fn gone() -> Self {
        Self {
            id: 0,
            revision: 0,
            memory: Bytes(0),
            phase: Phase::Gone,
        }
    }

    /// It cannot be served, for this reason.
    pub(super) fn fail(&mut self, name: &ModelName, error: LoadError) {
        tracing::error!(model = %name, %error, "cannot be served");
        self.memory = Bytes(0);
        self.phase = Phase::Failed(error);
    }

    /// Whatever counts its requests.
    pub(super) fn hosted(&self) -> Option<Arc<Hosted>> {
        match &self.phase {
            Phase::Ready(hosted) | Phase::Draining(hosted) => Some(hosted.clone()),
            _ => None,
        }
    }
}
