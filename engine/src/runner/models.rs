//! The model of a runner, and its adapters.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use crate::{LoadError, LoadedModel};

/// The model of a runner, and its adapters by the ids that the agent has given them.
#[derive(Default)]
pub(super) struct RunnerModels {
    /// Empty until it is loaded.
    base: OnceLock<Arc<dyn LoadedModel>>,
    adapters: RwLock<HashMap<u64, Arc<dyn LoadedModel>>>,
}

impl RunnerModels {
    /// The model, once it is loaded.
    pub(super) fn base(&self) -> Option<&Arc<dyn LoadedModel>> {
        self.base.get()
    }

    /// The adapter of this id.
    pub(super) fn adapter(&self, id: u64) -> Option<Arc<dyn LoadedModel>> {
        self.adapters.read().get(&id).cloned()
    }

    /// Sets the loaded model.
    ///
    /// # Errors
    /// When there is one already.
    pub(super) fn set_base(&self, loaded: Arc<dyn LoadedModel>) -> Result<(), LoadError> {
        let set = self.base.set(loaded);
        set.map_err(|_| LoadError::Engine("the runner has a model already".into()))
    }

    pub(super) fn insert_adapter(&self, id: u64, loaded: Arc<dyn LoadedModel>) {
        self.adapters.write().insert(id, loaded);
    }

    pub(super) fn remove_adapter(&self, id: u64) -> Option<Arc<dyn LoadedModel>> {
        self.adapters.write().remove(&id)
    }
}
