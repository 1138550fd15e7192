//! One revision of a model on this node, as a state machine.
//!
//! ```text
//! Waiting ──► Checking ──► Checked ──► Loading ──► Ready ──► Draining ──► Gone
//!    ▲           ▼                        │          ▼          ▲          ▲
//!    ├─────── Fetching                    │       Ending ───────┘          │
//!    │                                    │          ▼                     │
//!    └────────────────────────────────────│───── Restarting                │
//!                                         └──► LoadCancelled ──────────────┘
//! ```
//! Every phase before `Draining` can also become `Failed`. [`InstancePhase::step`] is pure: the manager
//! feeds it events and performs the actions that it returns.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::Model;
use flotilla_core::{Bytes, ModelName, ModelRevision};
use flotilla_engine::{LoadError, StuckProcess};

use super::live_counters::LiveCounters;
use super::memory_budget::{InstanceMemory, MemoryPool};
use super::restarts::Restarts;
use super::{InstanceError, ServedModel};
use crate::artifacts::ArtifactError;

/// Identifies an instance among all that this agent has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct InstanceId(pub(super) u64);

/// One revision of a model on this node.
pub(super) struct ModelInstance {
    pub(super) id: InstanceId,
    pub(super) model: ModelName,
    pub(super) revision: ModelRevision,
    /// Its files, if controllers deliver them. They stay on the node as long as the instance is there.
    pub(super) files: Option<Manifest>,
    /// What an adapter runs in. `None`: it is no adapter.
    pub(super) base: Option<Base>,
    /// Whether it takes memory of one of the node's GPUs.
    pub(super) on_device: bool,
    /// The GPU, once one was chosen for it.
    pub(super) gpu: Option<u32>,
    pub(super) role: InstanceRole,
    pub(super) phase: InstancePhase,
    /// What its requests have done.
    pub(super) counters: Arc<LiveCounters>,
    /// When its process ended by itself.
    pub(super) restarts: Restarts,
    /// The memory that its process was charged last. `None` until it was measured.
    pub(super) measured: Option<Bytes>,
    /// Its process, if that was to end and does not. The instance stays in its phase and keeps its memory.
    pub(super) stuck: Option<StuckProcess>,
}

/// The model that an adapter belongs to.
pub(super) struct Base {
    pub(super) name: ModelName,
    /// Its loaded model on this node that the adapter is, or will be, loaded onto. `None`: it is waited for.
    pub(super) served: Option<Arc<ServedModel>>,
    /// Whether another loaded model has taken its place, onto which the adapter has to be loaded as well.
    pub(super) is_replaced: bool,
}

impl Base {
    /// The base of this name, which is waited for.
    pub(super) fn new(name: ModelName) -> Self {
        Self {
            name,
            served: None,
            is_replaced: false,
        }
    }
}

/// What an instance is to its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstanceRole {
    /// Serves the model, or is being started for it. Its status is the model's status.
    Current,
    /// Replaces the current instance once it is ready.
    Next,
    /// Was replaced, or is not desired any more. It is not reported; its memory counts until it is gone.
    Retired,
}

/// Where an instance is in its life.
#[derive(Clone)]
pub(super) enum InstancePhase {
    /// Nothing has started yet, or the files have just arrived.
    Waiting,
    /// Its files are looked up, and its memory is estimated.
    Checking,
    /// It can be loaded once there is memory. The manager looks for it after every event.
    Checked {
        /// The memory that it needs.
        needed: Bytes,
        model: Box<Model>,
    },
    /// Its files are being fetched.
    Fetching,
    /// The engine loads it.
    Loading { memory: Bytes },
    /// It is not desired any more, and the engine ends its load.
    LoadCancelled { memory: Bytes },
    /// It accepts requests.
    Ready {
        memory: Bytes,
        served: Arc<ServedModel>,
    },
    /// It finishes its requests, then it is unloaded.
    Draining {
        memory: Bytes,
        served: Arc<ServedModel>,
    },
    /// Its process ends or has ended by itself; why is found out. It accepts no requests.
    Ending {
        memory: Bytes,
        served: Arc<ServedModel>,
    },
    /// Its process has ended by itself with this error, or could not be started again, and is started after a
    /// while.
    Restarting(InstanceError),
    /// It cannot serve.
    Failed(InstanceError),
    /// It holds nothing any more and can be removed.
    Gone,
}

/// Something that happens to an instance.
pub(super) enum InstanceEvent {
    /// It is to start: what it needs has to be checked first.
    Start(Box<Model>),
    /// The check of what it needs has ended.
    Checked(CheckResult),
    /// There is memory for it.
    MemoryReserved,
    /// There is no memory for it.
    StartFailed(InstanceError),
    /// Fetching its files has ended.
    Fetched(Result<(), ArtifactError>),
    /// Loading it has ended.
    Loaded(Result<Arc<ServedModel>, LoadError>),
    /// The model can never answer again; why is not known yet.
    EngineFailing,
    /// The model can never answer again.
    EngineFailed {
        error: LoadError,
        /// The time until it is started again. `None`: it is not.
        restart_after: Option<Duration>,
    },
    /// It could not be started again after its process had ended.
    RestartFailed {
        error: InstanceError,
        /// The time until it is tried once more. `None`: it is not.
        restart_after: Option<Duration>,
    },
    /// It is time to start it again.
    RestartDue,
    /// Its memory was measured.
    MemoryMeasured(Bytes),
    /// Its process cannot be ended. Another event follows once it has ended.
    ProcessStuck(StuckProcess),
    /// A process of the same model and revision, which could not be ended, has ended.
    OtherProcessEnded,
    /// It has to stop.
    Retire(RetireReason),
    /// It is drained and its memory is free.
    Unloaded,
    /// The task that works on it has panicked.
    TaskPanicked,
}

/// What an instance needs before it can be loaded.
pub(super) enum CheckResult {
    /// These files are not on the node.
    FilesMissing(Manifest),
    /// It needs this much memory.
    Loadable { needed: Bytes, model: Box<Model> },
    /// It cannot be loaded.
    Unusable(InstanceError),
}

/// Why an instance has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetireReason {
    /// The desired state does not contain it. Queued requests are rejected, so that controllers send
    /// them to another node.
    NotDesired,
    /// Another instance serves the model now. Queued requests are still computed.
    Replaced,
}

/// What the manager has to do after a step.
pub(super) enum InstanceAction {
    /// Check what the model needs.
    Check(Box<Model>),
    /// Fetch these files.
    Fetch(Manifest),
    /// Stop fetching.
    AbortFetch,
    /// Load the model.
    Load(Box<Model>),
    /// End the load.
    CancelLoad,
    /// Reject the waiting requests, and find out why the model can never answer again.
    FollowEnd(Arc<ServedModel>),
    /// Start again after this time.
    RestartAfter(Duration),
    /// Route the model's requests to this instance.
    Publish(Arc<ServedModel>),
    /// Stop routing requests to the model.
    Withdraw,
    /// Finish the requests, then unload.
    Drain {
        served: Arc<ServedModel>,
        reason: RetireReason,
    },
}

impl InstancePhase {
    /// Returns the phase after `event`, and what has to be done. An event that does not concern the
    /// phase changes nothing.
    pub(super) fn step(self, event: InstanceEvent) -> (Self, Vec<InstanceAction>) {
        match (self, event) {
            (Self::Waiting, InstanceEvent::Start(model)) => {
                (Self::Checking, vec![InstanceAction::Check(model)])
            }
            (Self::Checking, InstanceEvent::Checked(result)) => match result {
                CheckResult::FilesMissing(files) => {
                    (Self::Fetching, vec![InstanceAction::Fetch(files)])
                }
                CheckResult::Loadable { needed, model } => {
                    (Self::Checked { needed, model }, vec![])
                }
                CheckResult::Unusable(error) => (Self::Failed(error), vec![]),
            },
            (Self::Checked { needed, model }, InstanceEvent::MemoryReserved) => (
                Self::Loading { memory: needed },
                vec![InstanceAction::Load(model)],
            ),
            (Self::Checked { .. }, InstanceEvent::StartFailed(error)) => {
                (Self::Failed(error), vec![])
            }

            (Self::Fetching, InstanceEvent::Fetched(Ok(()))) => (Self::Waiting, vec![]),
            (Self::Fetching, InstanceEvent::Fetched(Err(error))) => {
                (Self::Failed(error.into()), vec![])
            }

            (Self::Loading { memory }, InstanceEvent::Loaded(Ok(served))) => {
                let publish = InstanceAction::Publish(served.clone());
                (Self::Ready { memory, served }, vec![publish])
            }
            (Self::Loading { .. }, InstanceEvent::Loaded(Err(error))) => {
                (Self::Failed(error.into()), vec![])
            }
            (Self::LoadCancelled { memory }, InstanceEvent::Loaded(Ok(served))) => {
                Self::drain(memory, served, RetireReason::NotDesired)
            }
            (Self::LoadCancelled { .. }, InstanceEvent::Loaded(Err(_))) => (Self::Gone, vec![]),

            (Self::Ready { memory, served }, InstanceEvent::EngineFailing) => {
                let follow = InstanceAction::FollowEnd(served.clone());
                let actions = vec![InstanceAction::Withdraw, follow];
                (Self::Ending { memory, served }, actions)
            }
            (
                Self::Ending { .. },
                InstanceEvent::EngineFailed {
                    error,
                    restart_after,
                },
            ) => Self::restart(error.into(), restart_after),
            (
                Self::Checking | Self::Checked { .. } | Self::Fetching | Self::Loading { .. },
                InstanceEvent::RestartFailed {
                    error,
                    restart_after,
                },
            ) => Self::restart(error, restart_after),
            (Self::LoadCancelled { .. }, InstanceEvent::RestartFailed { .. }) => {
                (Self::Gone, vec![])
            }
            (Self::Restarting(_), InstanceEvent::RestartDue)
            | (Self::Failed(InstanceError::Stuck(_)), InstanceEvent::OtherProcessEnded) => {
                (Self::Waiting, vec![])
            }
            (Self::Ready { served, .. }, InstanceEvent::MemoryMeasured(memory)) => {
                (Self::Ready { memory, served }, vec![])
            }

            (
                Self::Waiting
                | Self::Checking
                | Self::Checked { .. }
                | Self::Restarting(_)
                | Self::Failed(_),
                InstanceEvent::Retire(_),
            ) => (Self::Gone, vec![]),
            (Self::Fetching, InstanceEvent::Retire(_)) => {
                (Self::Gone, vec![InstanceAction::AbortFetch])
            }
            (Self::Loading { memory }, InstanceEvent::Retire(_)) => (
                Self::LoadCancelled { memory },
                vec![InstanceAction::CancelLoad],
            ),
            (Self::Ending { memory, served }, InstanceEvent::Retire(reason)) => {
                Self::drain(memory, served, reason)
            }
            (Self::Ready { memory, served }, InstanceEvent::Retire(reason)) => {
                let (phase, mut actions) = Self::drain(memory, served, reason);
                if reason == RetireReason::NotDesired {
                    actions.insert(0, InstanceAction::Withdraw);
                }
                (phase, actions)
            }

            (Self::Draining { .. }, InstanceEvent::Unloaded) => (Self::Gone, vec![]),

            (
                Self::Checking | Self::Fetching | Self::Loading { .. } | Self::Ending { .. },
                InstanceEvent::TaskPanicked,
            ) => {
                let error = LoadError::Engine("a task of the agent panicked".into());
                (Self::Failed(error.into()), vec![])
            }
            (Self::LoadCancelled { .. } | Self::Draining { .. }, InstanceEvent::TaskPanicked) => {
                (Self::Gone, vec![])
            }
            (Self::Restarting(_), InstanceEvent::TaskPanicked) => (Self::Waiting, vec![]),

            (phase, _) => (phase, vec![]),
        }
    }

    /// The phase of an instance that is started again after `restart_after`, or not any more.
    fn restart(
        error: InstanceError,
        restart_after: Option<Duration>,
    ) -> (Self, Vec<InstanceAction>) {
        match restart_after {
            Some(delay) => {
                let restart = InstanceAction::RestartAfter(delay);
                (Self::Restarting(error), vec![restart])
            }
            None => (Self::Failed(error), vec![]),
        }
    }

    fn drain(
        memory: Bytes,
        served: Arc<ServedModel>,
        reason: RetireReason,
    ) -> (Self, Vec<InstanceAction>) {
        let drain = InstanceAction::Drain {
            served: served.clone(),
            reason,
        };
        (Self::Draining { memory, served }, vec![drain])
    }

    /// The memory that the instance holds or has reserved.
    pub(super) fn memory(&self) -> Bytes {
        match self {
            Self::Loading { memory }
            | Self::LoadCancelled { memory }
            | Self::Ready { memory, .. }
            | Self::Ending { memory, .. }
            | Self::Draining { memory, .. } => *memory,
            Self::Waiting
            | Self::Checking
            | Self::Checked { .. }
            | Self::Fetching
            | Self::Restarting(_)
            | Self::Failed(_)
            | Self::Gone => Bytes(0),
        }
    }

    /// Whether the instance is being unloaded.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self, Self::LoadCancelled { .. } | Self::Draining { .. })
    }

    /// Whether the instance may wait for the end of its process.
    fn may_await_end(&self) -> bool {
        self.is_leaving() || matches!(self, Self::Loading { .. } | Self::Ending { .. })
    }
}

impl ModelInstance {
    /// Applies an event and returns the actions that follow. Once its memory was measured, the instance is started
    /// again with that rather than with the estimate.
    pub(super) fn apply(&mut self, mut event: InstanceEvent) -> Vec<InstanceAction> {
        match &mut event {
            InstanceEvent::MemoryMeasured(memory) => self.measured = Some(*memory),
            InstanceEvent::ProcessStuck(process) => self.stuck = Some(*process),
            InstanceEvent::Checked(CheckResult::Loadable { needed, .. }) => {
                *needed = self.measured.unwrap_or(*needed);
            }
            _ => {}
        }
        let (phase, actions) = self.phase.clone().step(event);
        self.stuck = self.stuck.filter(|_| phase.may_await_end());
        self.phase = phase;
        actions
    }

    /// The instance's share of the memory budget.
    pub(super) fn memory(&self) -> InstanceMemory {
        InstanceMemory {
            bytes: self.phase.memory(),
            pool: self.pool(),
            // Nobody knows when a process ends that cannot be ended.
            is_leaving: self.phase.is_leaving() && self.stuck.is_none(),
        }
    }

    /// What it takes its memory of. Before a GPU was chosen for it, it takes none.
    pub(super) fn pool(&self) -> MemoryPool {
        match self.gpu.filter(|_| self.on_device) {
            Some(gpu) => MemoryPool::Gpu(gpu),
            None => MemoryPool::Host,
        }
    }

    /// The loaded model that it is an adapter of.
    pub(super) fn attached_base(&self) -> Option<&Arc<ServedModel>> {
        self.base.as_ref()?.served.as_ref()
    }

    /// Whether it is an adapter of this loaded model.
    pub(super) fn is_attached_to(&self, base: &Arc<ServedModel>) -> bool {
        self.attached_base()
            .is_some_and(|attached| Arc::ptr_eq(attached, base))
    }

    /// Whether it is an adapter of a model that another one has replaced.
    pub(super) fn has_replaced_base(&self) -> bool {
        self.base.as_ref().is_some_and(|base| base.is_replaced)
    }

    /// The loaded model, while it computes requests or their failures are counted.
    pub(super) fn served(&self) -> Option<&Arc<ServedModel>> {
        match &self.phase {
            InstancePhase::Ready { served, .. }
            | InstancePhase::Ending { served, .. }
            | InstancePhase::Draining { served, .. } => Some(served),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
