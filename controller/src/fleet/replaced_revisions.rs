//! Remembers the revision of a model that was desired before, for as long as no revision is stable. What
//! replicas serve is in the store only once it is stable: without this, a first revision that is replaced
//! at once could not be returned to.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::Model;
use flotilla_core::{ModelName, ModelRevision, NodeName};

/// A model as it is, or was, at one of its revisions.
#[derive(Debug, Clone)]
pub struct ModelAtRevision {
    /// The revision.
    pub revision: ModelRevision,
    /// The model resource of that revision.
    pub model: Arc<Model>,
    /// The manifest of that revision, if controllers deliver its files.
    pub manifest: Option<Arc<Manifest>>,
}

/// The revisions of a model without a stable one.
struct Unproven {
    desired: ModelAtRevision,
    replaced: Option<ModelAtRevision>,
}

/// The replaced revisions of all models without a stable one.
#[derive(Default)]
pub(super) struct ReplacedRevisions {
    models: BTreeMap<ModelName, Unproven>,
}

impl ReplacedRevisions {
    /// Notes the desired revision of a model without a stable one, and which revisions nodes are assigned.
    /// Returns the last earlier one that a node was assigned.
    pub(super) fn observe(
        &mut self,
        model: &Model,
        revision: ModelRevision,
        manifest: Option<&Arc<Manifest>>,
        assigned: &BTreeMap<NodeName, ModelRevision>,
    ) -> Option<ModelAtRevision> {
        let desired = || ModelAtRevision {
            revision,
            model: Arc::new(model.clone()),
            manifest: manifest.cloned(),
        };
        let Some(unproven) = self.models.get_mut(model.name()) else {
            let unproven = Unproven {
                desired: desired(),
                replaced: None,
            };
            self.models.insert(model.name().clone(), unproven);
            return None;
        };
        if unproven.desired.revision != revision {
            let earlier = std::mem::replace(&mut unproven.desired, desired());
            if assigned.values().any(|r| *r == earlier.revision) {
                unproven.replaced = Some(earlier);
            }
        }
        unproven.replaced.clone()
    }

    /// Forgets a model that is deleted.
    pub(super) fn forget(&mut self, model: &ModelName) {
        self.models.remove(model);
    }

    /// Forgets the models of which this is not so: that they exist and have no stable revision.
    pub(super) fn retain(&mut self, is_unproven: impl Fn(&ModelName) -> bool) {
        self.models.retain(|name, _| is_unproven(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::ModelSpec;

    #[test]
    fn last_earlier_revision_that_a_node_was_assigned_is_remembered() {
        let name = ModelName::new("m").unwrap();
        let model = Model::new(name.clone(), ModelSpec::default());
        let mut replaced = ReplacedRevisions::default();
        let node = NodeName::new("n1").unwrap();
        let observe = |replaced: &mut ReplacedRevisions, desired, assigned: Option<u64>| {
            let assigned = assigned.map(|revision| (node.clone(), ModelRevision(revision)));
            let assigned = assigned.into_iter().collect();
            let earlier = replaced.observe(&model, ModelRevision(desired), None, &assigned);
            earlier.map(|earlier| earlier.revision.0)
        };
        assert_eq!(observe(&mut replaced, 1, None), None);
        assert_eq!(observe(&mut replaced, 1, Some(1)), None);
        assert_eq!(observe(&mut replaced, 2, Some(1)), Some(1));
        // One that no node was assigned does not count.
        assert_eq!(observe(&mut replaced, 3, Some(1)), Some(1));
        assert_eq!(observe(&mut replaced, 3, Some(3)), Some(1));
        assert_eq!(observe(&mut replaced, 4, Some(3)), Some(3));
        replaced.forget(&name);
        assert_eq!(observe(&mut replaced, 5, Some(4)), None);
    }
}
