//! The models of this node: what should run, what does, and the queue before each.
//!
//! One task owns every model's life cycle ([`manager`]): absent → loading → ready →
//! draining → gone, or failed with a problem and its remedy; a new revision beside the old one
//! where memory allows. Requests look a model up in a
//! [`ServingTable`] that the task swaps, and pass its [`ServedModel`] gate.

mod gate;
mod hosted;
mod instance_error;
mod manager;
mod part;
mod statuses;
mod ticket;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::Model;
use flotilla_core::{ModelName, ModelRevision};

pub use hosted::ServedModel;
use instance_error::InstanceError;
pub(crate) use manager::{ModelManager, ModelManagerConfig};
pub(crate) use statuses::ModelStatuses;
pub use ticket::AdmittedRequest;

/// A model this node should run.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredModel {
    pub name: ModelName,
    /// See [`Model::serving_revision`].
    pub revision: ModelRevision,
    /// `None`: what there is of this revision stays; where there is nothing, nothing is to be
    /// done.
    pub model: Option<Model>,
    /// Its files, where controllers deliver them.
    pub files: Option<Manifest>,
}

/// The models that take requests. Cheap to clone; read without locking.
#[derive(Clone, Default)]
pub struct ServingTable(Arc<ArcSwap<HashMap<ModelName, Arc<ServedModel>>>>);

impl ServingTable {
    /// The model of this name, if it takes requests.
    #[must_use]
    pub fn get(&self, name: &ModelName) -> Option<Arc<ServedModel>> {
        self.0.load().get(name).cloned()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Arc<HashMap<ModelName, Arc<ServedModel>>> {
        self.0.load_full()
    }

    fn insert(&self, name: &ModelName, hosted: &Arc<ServedModel>) {
        self.0.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.insert(name.clone(), hosted.clone());
            table
        });
    }

    fn remove(&self, name: &ModelName) {
        self.0.rcu(|table| {
            let mut table = HashMap::clone(table);
            table.remove(name);
            table
        });
    }
}
