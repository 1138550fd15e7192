//! The memory of replicas, as nodes report it.

use std::collections::HashMap;

use flotilla_core::{Bytes, ModelName, ModelRevision};

/// Memory of one replica, by model and revision.
#[derive(Default)]
pub(super) struct MeasuredMemory {
    memory: HashMap<(ModelName, ModelRevision), Bytes>,
}

impl MeasuredMemory {
    /// Records the memory in bytes; ignores 0, which means unknown.
    pub(super) fn record(&mut self, model: &ModelName, revision: ModelRevision, bytes: u64) {
        if bytes > 0 {
            self.memory.insert((model.clone(), revision), Bytes(bytes));
        }
    }

    /// Forgets all revisions of a deleted model.
    pub(super) fn remove_model(&mut self, model: &ModelName) {
        self.memory.retain(|(name, _), _| name != model);
    }

    /// Returns the memory of one replica, if a node has reported it.
    pub(super) fn get(&self, model: &ModelName, revision: ModelRevision) -> Option<Bytes> {
        self.memory.get(&(model.clone(), revision)).copied()
    }
}
