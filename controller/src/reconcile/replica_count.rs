//! How many replicas a model should have.

use std::collections::BTreeMap;

use flotilla_core::ModelName;

use crate::fleet::{FleetView, ModelView};

/// Returns the number of replicas that a model has. One on a lost node does not count beside others,
/// which replace it.
pub(super) fn current(view: &FleetView, model: &ModelView) -> u32 {
    let is_lost = |name| view.nodes.get(name).is_some_and(|node| node.is_given_up());
    let lost = model.assigned.keys().filter(|name| is_lost(*name)).count();
    let count = match model.assigned.len() - lost {
        0 => lost,
        others => others,
    };
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The replicas that the adapters of a base need: those of the adapter that needs most, as each of them is in
/// a replica of the base.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AdapterDemand {
    /// Number of replicas that an adapter should have.
    pub(super) desired: u32,
    /// Number of replicas of an adapter that may displace idle replicas of other models.
    pub(super) required: u32,
}

impl AdapterDemand {
    /// Collects the demand of adapters by their bases.
    pub(super) fn by_base(
        adapters: impl Iterator<Item = (ModelName, Self)>,
    ) -> BTreeMap<ModelName, Self> {
        let mut demand: BTreeMap<ModelName, Self> = BTreeMap::new();
        for (base, adapter) in adapters {
            let most = demand.entry(base).or_default();
            most.desired = most.desired.max(adapter.desired);
            most.required = most.required.max(adapter.required.min(adapter.desired));
        }
        demand
    }
}

/// Returns the number of replicas that a model should have when no rollout is under way. `scaled`
/// is the number that its load asks for; `None` if the load is not known.
pub(super) fn desired(
    view: &FleetView,
    model: &ModelView,
    scaled: Option<u32>,
    adapters: AdapterDemand,
) -> u32 {
    let assigned = current(view, model);
    let any_loadable = model.loadable || model.endpoints.revisions.stable.is_some();
    if !any_loadable {
        // Without files no replica can be added, and none has to leave.
        return assigned;
    }
    let bounds = model.endpoints.model.spec.replicas;
    let of_load = scaled.unwrap_or_else(|| {
        let awake = assigned.max(u32::from(model.waiting > 0));
        awake.clamp(bounds.min, bounds.max)
    });
    of_load.max(adapters.desired.min(bounds.max))
}

/// Returns the number of replicas that may displace idle replicas of other models: the minimum of
/// the spec, one if requests wait, and those that adapters require.
pub(super) fn required(model: &ModelView, adapters: AdapterDemand) -> u32 {
    let bounds = model.endpoints.model.spec.replicas;
    let waiting = u32::from(model.waiting > 0);
    let of_adapters = adapters.required.min(bounds.max);
    bounds.min.max(waiting).max(of_adapters)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use flotilla_core::rollout::ModelRevisions;
    use flotilla_core::spec::{Model, ModelSpec, Replicas};
    use flotilla_dispatch::ModelEndpoints;

    use super::super::Observations;
    use super::super::model_view;
    use super::super::problem::ProblemInputs;
    use super::*;

    /// Returns a base that may sleep and has no replica.
    fn base(max: u32) -> ModelView {
        let spec = ModelSpec {
            replicas: Replicas { min: 0, max },
            ..ModelSpec::default()
        };
        model_view(Model::new(ModelName::new("chat").unwrap(), spec), 0)
    }

    /// Returns an adapter of the base.
    fn adapter(name: &str, replicas: Replicas, waiting: u32) -> ModelView {
        let spec = ModelSpec {
            base: Some(ModelName::new("chat").unwrap()),
            replicas,
            ..ModelSpec::default()
        };
        let model = Model::new(ModelName::new(name).unwrap(), spec);
        ModelView {
            waiting,
            ..model_view(model, 0)
        }
    }

    /// Returns the target and the required number of replicas of a base.
    fn base_demand(base: ModelView, adapters: Vec<ModelView>) -> (u32, u32) {
        let name = base.endpoints.model.name().clone();
        let models = adapters.into_iter().chain([base]);
        let models = models.map(|model| (model.endpoints.model.name().clone(), Arc::new(model)));
        let view = FleetView {
            synced: true,
            models: models.collect(),
            ..FleetView::default()
        };
        let now = Instant::now();
        let inputs = ProblemInputs::new(&view, &Observations::default(), now);
        let problem = inputs.problem(&view, now);
        let demand = problem.models.iter().find(|demand| *demand.name == name);
        let demand = demand.unwrap();
        (demand.target, demand.required)
    }

    #[test]
    fn base_has_the_replicas_that_its_adapters_need() {
        let asleep = || adapter("tone", Replicas { min: 0, max: 4 }, 0);
        assert_eq!(base_demand(base(2), vec![asleep()]), (0, 0));
        // A request for an adapter wakes it up with its base.
        let woken = adapter("sort", Replicas { min: 0, max: 4 }, 3);
        assert_eq!(base_demand(base(2), vec![asleep(), woken]), (1, 1));
        // The largest demand counts, up to what the base may have.
        let three = || adapter("sort", Replicas::fixed(3), 0);
        let one = || adapter("tone", Replicas::fixed(1), 0);
        assert_eq!(base_demand(base(4), vec![one(), three()]), (3, 3));
        assert_eq!(base_demand(base(2), vec![one(), three()]), (2, 2));
        // Without its files the base can be loaded nowhere.
        let mut missing_files = base(2);
        missing_files.loadable = false;
        let endpoints = &missing_files.endpoints;
        let revisions = ModelRevisions {
            stable: None,
            ..endpoints.revisions
        };
        let model = endpoints.model.clone();
        let endpoints = ModelEndpoints::new(model, revisions, Vec::new());
        missing_files.endpoints = Arc::new(endpoints);
        assert_eq!(base_demand(missing_files, vec![three()]).0, 0);
    }
}
