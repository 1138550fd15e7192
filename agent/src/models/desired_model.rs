//! The desired state of one model on this node.

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::Model;
use flotilla_core::{ModelName, ModelRevision};

/// A model that this node should run.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredModel {
    /// The model's name in the fleet.
    pub name: ModelName,
    /// The revision to serve; see [`Model::serving_revision`].
    pub revision: ModelRevision,
    /// The model's spec. `None`: an existing instance of this revision is kept, but none is started.
    pub model: Option<Model>,
    /// The model's files, if controllers deliver them. `None` if the spec names a path on the node.
    pub files: Option<Manifest>,
    /// Whether the desired state does not name it, and it is kept for a while only.
    pub is_held: bool,
}

/// The models that this node should run. `None`: not known yet.
pub(crate) type DesiredModels = Option<Vec<DesiredModel>>;
