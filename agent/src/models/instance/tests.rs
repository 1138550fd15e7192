use super::*;
use crate::models::served_model::tests::served_model;

const MEMORY: Bytes = Bytes(7);

fn loading() -> InstancePhase {
    InstancePhase::Loading { memory: MEMORY }
}

fn ready() -> InstancePhase {
    InstancePhase::Ready {
        memory: MEMORY,
        served: served_model(1, 1),
    }
}

fn model() -> Box<Model> {
    let name = ModelName::new("m").unwrap();
    Box::new(Model::new(name, Default::default()))
}

fn load_error() -> LoadError {
    LoadError::Engine("broken".into())
}

#[test]
fn fetched_instance_waits_to_be_started_again() {
    let files = InstanceEvent::Checked(CheckResult::FilesMissing(Manifest::default()));
    let (phase, actions) = InstancePhase::Checking.step(files);
    assert!(matches!(phase, InstancePhase::Fetching));
    assert!(matches!(actions[..], [InstanceAction::Fetch(_)]));
    let (phase, actions) = phase.step(InstanceEvent::Fetched(Ok(())));
    assert!(matches!(phase, InstancePhase::Waiting));
    assert!(actions.is_empty());
}

#[test]
fn loaded_instance_is_published_and_keeps_its_memory() {
    let loaded = InstanceEvent::Loaded(Ok(served_model(1, 1)));
    let (phase, actions) = loading().step(loaded);
    assert!(matches!(phase, InstancePhase::Ready { .. }));
    assert!(matches!(actions[..], [InstanceAction::Publish(_)]));
    assert_eq!(phase.memory(), MEMORY);
}

#[test]
fn failed_load_frees_the_memory() {
    let (phase, actions) = loading().step(InstanceEvent::Loaded(Err(load_error())));
    assert!(matches!(phase, InstancePhase::Failed(_)));
    assert!(actions.is_empty());
    assert_eq!(phase.memory(), Bytes(0));
}

#[test]
fn undesired_instance_is_withdrawn_before_it_drains() {
    let retire = InstanceEvent::Retire(RetireReason::NotDesired);
    let (phase, actions) = ready().step(retire);
    assert!(phase.is_leaving());
    assert!(matches!(
        actions[..],
        [InstanceAction::Withdraw, InstanceAction::Drain { .. }]
    ));
    let (phase, _) = phase.step(InstanceEvent::Unloaded);
    assert!(matches!(phase, InstancePhase::Gone));
}

#[test]
fn replaced_instance_drains_without_withdrawing_its_successor() {
    let retire = InstanceEvent::Retire(RetireReason::Replaced);
    let (_, actions) = ready().step(retire);
    assert!(matches!(actions[..], [InstanceAction::Drain { .. }]));
}

#[test]
fn cancelled_load_is_unloaded_once_it_ends() {
    let retire = InstanceEvent::Retire(RetireReason::NotDesired);
    let (cancelled, actions) = loading().step(retire);
    assert!(matches!(actions[..], [InstanceAction::CancelLoad]));
    assert_eq!((cancelled.is_leaving(), cancelled.memory()), (true, MEMORY));
    let failed = InstanceEvent::Loaded(Err(load_error()));
    assert!(matches!(
        cancelled.clone().step(failed).0,
        InstancePhase::Gone
    ));
    let loaded = InstanceEvent::Loaded(Ok(served_model(1, 1)));
    let (phase, actions) = cancelled.step(loaded);
    assert!(matches!(phase, InstancePhase::Draining { .. }));
    assert!(matches!(actions[..], [InstanceAction::Drain { .. }]));
}

#[test]
fn instance_whose_process_ends_is_withdrawn_at_once_and_started_again() {
    let failed = |restart_after| InstanceEvent::EngineFailed {
        error: load_error(),
        restart_after,
    };
    let (ending, actions) = ready().step(InstanceEvent::EngineFailing);
    assert!(matches!(
        actions[..],
        [InstanceAction::Withdraw, InstanceAction::FollowEnd(_)]
    ));
    assert_eq!(ending.memory(), MEMORY, "its process may still hold it");
    let second = Duration::from_secs(1);
    let (phase, actions) = ending.clone().step(failed(Some(second)));
    assert!(matches!(phase, InstancePhase::Restarting(_)));
    assert_eq!(phase.memory(), Bytes(0));
    assert!(matches!(actions[..], [InstanceAction::RestartAfter(delay)] if delay == second));
    let (phase, _) = phase.step(InstanceEvent::RestartDue);
    assert!(matches!(phase, InstancePhase::Waiting));
    let (phase, actions) = ending.clone().step(failed(None));
    assert!(matches!(phase, InstancePhase::Failed(_)));
    assert!(actions.is_empty());
    let (phase, _) = ending.step(InstanceEvent::Retire(RetireReason::NotDesired));
    assert!(phase.is_leaving());
}

#[test]
fn restart_that_fails_is_tried_again_after_a_while() {
    let failed = |restart_after| InstanceEvent::RestartFailed {
        error: load_error().into(),
        restart_after,
    };
    let delay = Duration::from_secs(4);
    let checked = InstancePhase::Checked {
        needed: MEMORY,
        model: model(),
    };
    let phases = [InstancePhase::Checking, InstancePhase::Fetching, checked];
    for phase in phases.into_iter().chain([loading()]) {
        let (phase, actions) = phase.step(failed(Some(delay)));
        assert!(matches!(phase, InstancePhase::Restarting(_)));
        assert!(matches!(actions[..], [InstanceAction::RestartAfter(after)] if after == delay));
    }
    let (phase, _) = loading().step(failed(None));
    assert!(matches!(phase, InstancePhase::Failed(_)));
    let cancelled = InstancePhase::LoadCancelled { memory: MEMORY };
    let (phase, _) = cancelled.step(failed(Some(delay)));
    assert!(matches!(phase, InstancePhase::Gone));
}

#[test]
fn checked_instance_loads_once_there_is_memory() {
    let checked = CheckResult::Loadable {
        needed: MEMORY,
        model: model(),
    };
    let (phase, _) = InstancePhase::Checking.step(InstanceEvent::Checked(checked));
    assert_eq!(phase.memory(), Bytes(0));
    let (phase, actions) = phase.step(InstanceEvent::MemoryReserved);
    assert_eq!(phase.memory(), MEMORY);
    assert!(matches!(actions[..], [InstanceAction::Load(_)]));
}

#[test]
fn instance_without_a_load_stops_at_once() {
    let retire = || InstanceEvent::Retire(RetireReason::NotDesired);
    let (phase, actions) = InstancePhase::Fetching.step(retire());
    assert!(matches!(phase, InstancePhase::Gone));
    assert!(matches!(actions[..], [InstanceAction::AbortFetch]));
    let (phase, _) = InstancePhase::Waiting.step(retire());
    assert!(matches!(phase, InstancePhase::Gone));
}

#[test]
fn panic_of_a_task_leaves_no_instance_in_between() {
    let panicked = |phase: InstancePhase| phase.step(InstanceEvent::TaskPanicked).0;
    for phase in [InstancePhase::Checking, InstancePhase::Fetching, loading()] {
        assert!(matches!(panicked(phase), InstancePhase::Failed(_)));
    }
    let draining = InstancePhase::Draining {
        memory: MEMORY,
        served: served_model(1, 1),
    };
    let cancelled = InstancePhase::LoadCancelled { memory: MEMORY };
    for phase in [draining, cancelled] {
        assert!(matches!(panicked(phase), InstancePhase::Gone));
    }
    let restarting = InstancePhase::Restarting(load_error().into());
    assert!(matches!(panicked(restarting), InstancePhase::Waiting));
}

#[test]
fn late_event_changes_nothing() {
    let (phase, actions) = ready().step(InstanceEvent::Fetched(Ok(())));
    assert!(matches!(phase, InstancePhase::Ready { .. }));
    assert!(actions.is_empty());
}

fn instance(phase: InstancePhase) -> ModelInstance {
    ModelInstance {
        id: InstanceId(1),
        model: ModelName::new("m").unwrap(),
        revision: ModelRevision(1),
        files: None,
        base: None,
        on_device: false,
        gpu: None,
        role: InstanceRole::Current,
        phase,
        counters: Arc::default(),
        restarts: Restarts::default(),
        measured: None,
        stuck: None,
    }
}

#[test]
fn process_that_cannot_be_ended_keeps_its_memory_until_it_has() {
    let stuck = InstanceEvent::ProcessStuck;
    let process = StuckProcess { process: 1 };
    let (ending, _) = ready().step(InstanceEvent::EngineFailing);
    let mut failing = instance(ending);
    failing.apply(stuck(process));
    assert_eq!(failing.memory().bytes, MEMORY);
    failing.apply(InstanceEvent::Retire(RetireReason::NotDesired));
    let memory = failing.memory();
    assert_eq!((memory.bytes, memory.is_leaving), (MEMORY, false));
    failing.apply(InstanceEvent::Unloaded);
    assert!(failing.stuck.is_none() && failing.memory().bytes == Bytes(0));

    let mut loading = instance(loading());
    loading.apply(stuck(process));
    assert_eq!(loading.memory().bytes, MEMORY);
    loading.apply(InstanceEvent::Loaded(Err(load_error())));
    assert!(loading.stuck.is_none() && loading.memory().bytes == Bytes(0));
    // One that has ended meanwhile.
    loading.apply(stuck(process));
    assert!(loading.stuck.is_none());
}

#[test]
fn instance_that_failed_for_another_process_starts_once_that_has_ended() {
    let stuck = InstanceError::Stuck(StuckProcess { process: 1 });
    let (phase, _) = InstancePhase::Failed(stuck).step(InstanceEvent::OtherProcessEnded);
    assert!(matches!(phase, InstancePhase::Waiting));
    let failed = InstancePhase::Failed(load_error().into());
    let (phase, _) = failed.step(InstanceEvent::OtherProcessEnded);
    assert!(matches!(phase, InstancePhase::Failed(_)));
}

#[test]
fn restart_needs_what_was_measured_rather_than_the_estimate() {
    let mut instance = instance(ready());
    instance.apply(InstanceEvent::MemoryMeasured(Bytes(5)));
    assert_eq!(instance.memory().bytes, Bytes(5));
    instance.phase = InstancePhase::Checking;
    instance.apply(InstanceEvent::Checked(CheckResult::Loadable {
        needed: MEMORY,
        model: model(),
    }));
    instance.apply(InstanceEvent::MemoryReserved);
    assert_eq!(instance.memory().bytes, Bytes(5));
}
