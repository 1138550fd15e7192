//! How many replicas a model should have.

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

/// Returns the number of replicas that a model should have when no rollout is under way. `scaled`
/// is the number that its load asks for; `None` if the load is not known.
pub(super) fn desired(view: &FleetView, model: &ModelView, scaled: Option<u32>) -> u32 {
    let assigned = current(view, model);
    let any_loadable = model.loadable || model.endpoints.revisions.stable.is_some();
    if !any_loadable {
        // Without files no replica can be added, and none has to leave.
        return assigned;
    }
    scaled.unwrap_or_else(|| {
        let bounds = model.endpoints.model.spec.replicas;
        let awake = assigned.max(u32::from(model.waiting > 0));
        awake.clamp(bounds.min, bounds.max)
    })
}

/// Returns the number of replicas that may displace idle replicas of other models: the minimum of
/// the spec, and one if requests wait.
pub(super) fn required(model: &ModelView) -> u32 {
    let minimum = model.endpoints.model.spec.replicas.min;
    minimum.max(u32::from(model.waiting > 0))
}
