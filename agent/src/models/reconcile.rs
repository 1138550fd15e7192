//! Which instance of a model starts or stops next.

use super::DesiredModel;
use super::instance::{InstancePhase, ModelInstance};

/// The next step that brings a model to its desired state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReconcileStep {
    /// Nothing to do until the next event.
    Keep,
    /// Start the current instance, or retry its start.
    StartCurrent,
    /// Start an instance that replaces the current one, or retry its start.
    StartNext,
    /// Stop the current instance.
    StopCurrent,
    /// Stop the instance that should have replaced the current one.
    StopNext,
    /// Retire the current instance, whose process cannot be ended, so that another revision can start beside it.
    SetAside,
}

/// Decides the next step for one model. `next` is `None` whenever `current` is.
pub(super) fn next_step(
    current: Option<&ModelInstance>,
    next: Option<&ModelInstance>,
    desired: Option<&DesiredModel>,
) -> ReconcileStep {
    let has_spec = desired.is_some_and(|desired| desired.model.is_some());
    let Some(current) = current else {
        return if has_spec {
            ReconcileStep::StartCurrent
        } else {
            ReconcileStep::Keep
        };
    };
    let revision = desired.map(|desired| desired.revision);
    let is_desired = revision == Some(current.revision) && !current.has_replaced_base();
    let is_outdated =
        |next: &ModelInstance| revision != Some(next.revision) || next.has_replaced_base();
    if next.is_some_and(|next| is_desired || is_outdated(next)) {
        return ReconcileStep::StopNext;
    }
    match &current.phase {
        phase if phase.is_leaving() && current.stuck.is_some() && !is_desired && has_spec => {
            ReconcileStep::SetAside
        }
        // The instance ends by itself, even if it is desired again meanwhile.
        phase if phase.is_leaving() => ReconcileStep::Keep,
        InstancePhase::Waiting | InstancePhase::Checked { .. } if is_desired && has_spec => {
            ReconcileStep::StartCurrent
        }
        _ if is_desired => ReconcileStep::Keep,
        InstancePhase::Ready { .. } if has_spec => {
            match next.map(|next| &next.phase) {
                None | Some(InstancePhase::Waiting | InstancePhase::Checked { .. }) => {
                    ReconcileStep::StartNext
                }
                // A failed instance stays, so that its error is reported.
                Some(_) => ReconcileStep::Keep,
            }
        }
        _ => ReconcileStep::StopCurrent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::InstanceError;
    use crate::models::instance::{InstanceId, InstanceRole};
    use crate::models::served_model::tests::served_model;
    use flotilla_core::spec::{Model, ModelSpec};
    use flotilla_core::{Bytes, ModelName, ModelRevision};
    use flotilla_engine::{LoadError, StuckProcess};

    fn name() -> ModelName {
        ModelName::new("m").unwrap()
    }

    fn instance(revision: u64, phase: InstancePhase) -> ModelInstance {
        ModelInstance {
            id: InstanceId(revision),
            model: name(),
            revision: ModelRevision(revision),
            files: None,
            base: None,
            on_device: false,
            gpu: None,
            role: InstanceRole::Current,
            phase,
            counters: Default::default(),
            restarts: Default::default(),
            measured: None,
            stuck: None,
        }
    }

    fn ready() -> InstancePhase {
        InstancePhase::Ready {
            memory: Bytes(1),
            served: served_model(1, 1),
        }
    }

    fn failed() -> InstancePhase {
        InstancePhase::Failed(InstanceError::Load(LoadError::Engine("broken".into())))
    }

    fn loading() -> InstancePhase {
        InstancePhase::Loading { memory: Bytes(1) }
    }

    fn desired(revision: u64) -> DesiredModel {
        DesiredModel {
            name: name(),
            revision: ModelRevision(revision),
            model: Some(Model::new(name(), ModelSpec::default())),
            files: None,
            is_held: false,
        }
    }

    fn without_spec(revision: u64) -> DesiredModel {
        DesiredModel {
            model: None,
            ..desired(revision)
        }
    }

    fn step(
        current: Option<InstancePhase>,
        next: Option<(u64, InstancePhase)>,
        desired: Option<DesiredModel>,
    ) -> ReconcileStep {
        let current = current.map(|phase| instance(1, phase));
        let next = next.map(|(revision, phase)| instance(revision, phase));
        next_step(current.as_ref(), next.as_ref(), desired.as_ref())
    }

    #[test]
    fn missing_model_starts_if_its_spec_is_known() {
        assert_eq!(
            step(None, None, Some(desired(1))),
            ReconcileStep::StartCurrent
        );
        assert_eq!(step(None, None, Some(without_spec(1))), ReconcileStep::Keep);
        assert_eq!(step(None, None, None), ReconcileStep::Keep);
    }

    #[test]
    fn waiting_model_is_tried_again() {
        let waiting = || Some(InstancePhase::Waiting);
        assert_eq!(
            step(waiting(), None, Some(desired(1))),
            ReconcileStep::StartCurrent
        );
        assert_eq!(
            step(waiting(), None, Some(without_spec(1))),
            ReconcileStep::Keep
        );
    }

    #[test]
    fn failed_model_is_not_tried_again_before_its_revision_changes() {
        assert_eq!(
            step(Some(failed()), None, Some(desired(1))),
            ReconcileStep::Keep
        );
        assert_eq!(
            step(Some(failed()), None, Some(desired(2))),
            ReconcileStep::StopCurrent
        );
    }

    #[test]
    fn new_revision_starts_beside_one_that_serves() {
        assert_eq!(
            step(Some(ready()), None, Some(desired(2))),
            ReconcileStep::StartNext
        );
        let waiting = Some((2, InstancePhase::Waiting));
        assert_eq!(
            step(Some(ready()), waiting, Some(desired(2))),
            ReconcileStep::StartNext
        );
        for started in [loading(), failed()] {
            let next = Some((2, started));
            assert_eq!(
                step(Some(ready()), next, Some(desired(2))),
                ReconcileStep::Keep
            );
        }
    }

    #[test]
    fn next_instance_stops_when_its_revision_is_not_desired() {
        for desired in [Some(desired(1)), Some(desired(3)), None] {
            let next = Some((2, loading()));
            assert_eq!(step(Some(ready()), next, desired), ReconcileStep::StopNext);
        }
    }

    #[test]
    fn undesired_model_stops() {
        for phase in [ready(), loading(), InstancePhase::Fetching] {
            assert_eq!(step(Some(phase), None, None), ReconcileStep::StopCurrent);
        }
        assert_eq!(
            step(Some(ready()), None, Some(without_spec(2))),
            ReconcileStep::StopCurrent
        );
    }

    #[test]
    fn leaving_model_is_neither_stopped_nor_started() {
        let cancelled = || Some(InstancePhase::LoadCancelled { memory: Bytes(1) });
        for desired in [None, Some(desired(1)), Some(desired(2))] {
            assert_eq!(step(cancelled(), None, desired), ReconcileStep::Keep);
        }
    }

    #[test]
    fn instance_that_cannot_leave_is_set_aside_for_another_revision_only() {
        let mut current = instance(1, InstancePhase::LoadCancelled { memory: Bytes(1) });
        current.stuck = Some(StuckProcess { process: 1 });
        let step =
            |desired: Option<DesiredModel>| next_step(Some(&current), None, desired.as_ref());
        for desired in [None, Some(desired(1)), Some(without_spec(2))] {
            assert_eq!(step(desired), ReconcileStep::Keep);
        }
        assert_eq!(step(Some(desired(2))), ReconcileStep::SetAside);
    }

    #[test]
    fn dead_instance_gives_way_to_its_loading_successor() {
        let next = Some((2, loading()));
        assert_eq!(
            step(Some(failed()), next, Some(desired(2))),
            ReconcileStep::StopCurrent
        );
    }
}
