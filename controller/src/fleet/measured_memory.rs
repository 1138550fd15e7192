//! The memory of replicas, as nodes report it.

use std::collections::HashMap;

use flotilla_core::placement::ReplicaMemory;
use flotilla_core::{Bytes, ModelName, ModelRevision};

/// Memory of one replica, by model and revision.
#[derive(Default)]
pub(super) struct MeasuredMemory {
    memory: HashMap<(ModelName, ModelRevision), ReplicaMemory>,
}

impl MeasuredMemory {
    /// Records the memory in bytes, of the node's accelerator if `on_device`; ignores 0, which means
    /// unknown.
    pub(super) fn record(
        &mut self,
        model: &ModelName,
        revision: ModelRevision,
        bytes: u64,
        on_device: bool,
    ) {
        if bytes == 0 {
            return;
        }
        let memory = self.memory.entry((model.clone(), revision)).or_default();
        let kind = match on_device {
            true => &mut memory.device,
            false => &mut memory.host,
        };
        *kind = Some(Bytes(bytes));
    }

    /// Forgets all revisions of a deleted model.
    pub(super) fn remove_model(&mut self, model: &ModelName) {
        self.memory.retain(|(name, _), _| name != model);
    }

    /// Returns the memory of one replica, as far as nodes have reported it.
    pub(super) fn get(&self, model: &ModelName, revision: ModelRevision) -> ReplicaMemory {
        let memory = self.memory.get(&(model.clone(), revision));
        memory.copied().unwrap_or_default()
    }
}
