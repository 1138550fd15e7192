//! Adapters and their bases: an adapter runs in the process of its base, so that it can only be where its base
//! is.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::placement_state::{NodeAllocation, PlacementState, PlannedReplica};
use super::problem::PlacementProblem;
use super::unschedulable::UnschedulableReason;
use crate::{ModelName, NodeName};

/// The reason for which no node can have an adapter: the model that its spec names cannot be its base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnusableBase {
    /// There is no such model.
    Missing(ModelName),
    /// The model is an adapter itself.
    Adapter(ModelName),
}

impl fmt::Display for UnusableBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "its base '{name}' does not exist"),
            Self::Adapter(name) => write!(f, "its base '{name}' is an adapter itself"),
        }
    }
}

/// The base of an adapter.
enum Base {
    /// A model to place, by its index.
    Placed(usize),
    /// A model that is not placed and has replicas on these nodes, by their indices.
    Fixed(BTreeSet<usize>),
    /// No model that can be a base.
    Unusable(UnusableBase),
}

/// Which models are adapters of which others.
#[derive(Default)]
pub(super) struct BaseLinks {
    /// The bases, by the index of the adapter. `None`: the model is no adapter. Empty if none is one.
    bases: Vec<Option<Base>>,
    /// Whether a model has adapters, by model index. Empty if there are no adapters.
    has_adapters: Vec<bool>,
}

impl BaseLinks {
    /// Finds the bases of all adapters. The nodes are sorted by name.
    pub(super) fn new(problem: &PlacementProblem<'_>, nodes: &[NodeAllocation<'_>]) -> Self {
        let models = &problem.models;
        if models.iter().all(|model| model.base.is_none()) {
            return Self::default();
        }
        let names = models.iter().enumerate();
        let indices: HashMap<&ModelName, usize> = names.map(|(i, model)| (model.name, i)).collect();
        let fixed_nodes = |names: &[&NodeName]| {
            let index =
                |name: &&NodeName| nodes.binary_search_by_key(name, |node| node.capacity.name);
            names.iter().filter_map(|name| index(name).ok()).collect()
        };
        let find = |name: &ModelName| match indices.get(name) {
            Some(index) if models[*index].base.is_some() => {
                Base::Unusable(UnusableBase::Adapter(name.clone()))
            }
            Some(index) => Base::Placed(*index),
            None => match problem.fixed.iter().find(|fixed| fixed.name == name) {
                Some(fixed) => Base::Fixed(fixed_nodes(&fixed.nodes)),
                None => Base::Unusable(UnusableBase::Missing(name.clone())),
            },
        };
        let bases: Vec<_> = models.iter().map(|model| model.base.map(find)).collect();
        let mut has_adapters = vec![false; models.len()];
        for base in &bases {
            if let Some(Base::Placed(base)) = base {
                has_adapters[*base] = true;
            }
        }
        Self {
            bases,
            has_adapters,
        }
    }

    /// Returns whether a model is an adapter.
    pub(super) fn is_adapter(&self, model: usize) -> bool {
        self.base(model).is_some()
    }

    /// Returns whether a model is an adapter or has adapters.
    pub(super) fn is_linked(&self, model: usize) -> bool {
        self.is_adapter(model) || self.has_adapters.get(model) == Some(&true)
    }

    /// Returns the base of a model, by its index, if that is placed.
    pub(super) fn placed_base(&self, model: usize) -> Option<usize> {
        match self.base(model) {
            Some(Base::Placed(base)) => Some(*base),
            _ => None,
        }
    }

    fn base(&self, model: usize) -> Option<&Base> {
        self.bases.get(model).and_then(Option::as_ref)
    }
}

impl<'a> PlacementState<'a> {
    /// Returns the reason if a model can be on no node because of its base.
    pub(super) fn unusable_base(&self, model: usize) -> Option<UnschedulableReason> {
        match self.links.base(model) {
            Some(Base::Unusable(problem)) => {
                Some(UnschedulableReason::UnusableBase(problem.clone()))
            }
            _ => None,
        }
    }

    /// Returns the reason if a node may have no replica of a model, neither a new nor a current one, because
    /// its base is not there.
    pub(super) fn missing_base(&self, model: usize, node: usize) -> Option<UnschedulableReason> {
        let is_there = match self.links.base(model)? {
            Base::Placed(base) => self.nodes[node].linked.contains(base),
            Base::Fixed(nodes) => nodes.contains(&node),
            Base::Unusable(_) => return self.unusable_base(model),
        };
        let name = self.model(model).base.filter(|_| !is_there);
        name.map(|name| UnschedulableReason::MissingBase(name.clone()))
    }

    /// Returns the reason if a node gets no new replica of a model because its base is not there or leaves.
    pub(super) fn leaving_base(&self, model: usize, node: usize) -> Option<UnschedulableReason> {
        self.missing_base(model, node).or_else(|| {
            let base = self.links.placed_base(model)?;
            self.leaves(base, node)
                .then(|| UnschedulableReason::LeavingBase(self.model(base).name.clone()))
        })
    }

    /// Iterates over the replicas of a model's adapters on a node.
    pub(super) fn adapters_on(
        &self,
        base: usize,
        node: usize,
    ) -> impl Iterator<Item = &PlannedReplica<'a>> {
        let linked = self.nodes[node].linked.iter();
        let adapters = linked.filter(move |model| self.links.placed_base(**model) == Some(base));
        adapters.filter_map(move |model| {
            let mut replicas = self.replicas[*model].iter();
            replicas.find(|planned| planned.node == node)
        })
    }

    /// Returns whether an adapter on the node of a replica of its base answers or may answer.
    fn hosts_answers(&self, base: &PlannedReplica<'_>) -> bool {
        let mut adapters = self.adapters_on(base.model, base.node);
        adapters.any(|adapter| adapter.replica.readiness.may_answer())
    }

    /// Marks those of a model's surplus replicas as leaving whose adapters answer or may answer. Returns the
    /// others.
    pub(super) fn mark_leaving_bases(
        &mut self,
        mut surplus: Vec<PlannedReplica<'a>>,
    ) -> Vec<PlannedReplica<'a>> {
        surplus.retain(|planned| {
            let stays = self.hosts_answers(planned);
            if stays {
                self.leaving_bases.insert((planned.model, planned.node));
            }
            !stays
        });
        surplus
    }

    /// Removes the leaving bases whose adapters need not stay.
    pub(super) fn remove_leaving_bases(&mut self) {
        let leaving: Vec<PlannedReplica<'a>> = self
            .leaving_bases
            .iter()
            .filter_map(|(model, node)| {
                let mut replicas = self.replicas[*model].iter();
                replicas.find(|planned| planned.node == *node).copied()
            })
            .collect();
        for planned in leaving {
            if !self.hosts_answers(&planned) {
                self.remove(&planned);
            }
        }
    }
}
