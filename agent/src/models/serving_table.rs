//! The models of this node that accept requests.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use flotilla_core::ModelName;

use super::ServedModel;

/// The models that accept requests, by name. Cheap to clone; reading takes no lock.
#[derive(Clone, Default)]
pub struct ServingTable(Arc<ArcSwap<HashMap<ModelName, Arc<ServedModel>>>>);

impl ServingTable {
    /// Returns the model of this name if it accepts requests.
    #[must_use]
    pub fn get(&self, name: &ModelName) -> Option<Arc<ServedModel>> {
        self.0.load().get(name).cloned()
    }

    /// Returns a snapshot of all models that accept requests.
    #[must_use]
    pub fn all(&self) -> Arc<HashMap<ModelName, Arc<ServedModel>>> {
        self.0.load_full()
    }

    /// Routes new requests for `name` to `served`.
    pub(super) fn insert(&self, name: &ModelName, served: &Arc<ServedModel>) {
        self.0.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.insert(name.clone(), served.clone());
            table
        });
    }

    /// Stops routing requests to the model of this name.
    pub(super) fn remove(&self, name: &ModelName) {
        self.0.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.remove(name);
            table
        });
    }
}
