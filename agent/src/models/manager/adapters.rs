//! Adapters, which run in the process of their base: they are loaded once it is ready, and leave before it does.

use std::sync::Arc;

use flotilla_core::{Bytes, ModelName};

use super::ModelManager;
use crate::models::ServedModel;
use crate::models::instance::{
    InstanceEvent, InstanceId, InstancePhase, InstanceRole, ModelInstance, RetireReason,
};
use crate::models::memory_budget::MemoryPool;

/// What has happened to the loaded model that an adapter is attached to.
enum BaseChange {
    /// Nothing, or the adapter ends by itself.
    None,
    /// Another loaded model is the base now. The adapter serves until it is loaded onto that, too.
    Replaced,
    /// There is no base. The adapter stops, and starts again with its base.
    Gone,
}

impl ModelManager {
    /// Attaches an instance to its base if it is an adapter. Returns whether it can start: it is no adapter, or its
    /// base is ready.
    pub(super) fn attach_to_base(&mut self, id: InstanceId) -> bool {
        let base = self.instances.get(&id).and_then(|i| i.base.as_ref());
        let Some(name) = base.map(|base| base.name.clone()) else {
            return true;
        };
        let Some((served, pool)) = self.ready_base(&name) else {
            return false;
        };
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.on_device = pool != MemoryPool::Host;
            instance.gpu = pool.gpu();
            if let Some(base) = &mut instance.base {
                (base.served, base.is_replaced) = (Some(served), false);
            }
        }
        true
    }

    /// Whether another adapter is being loaded onto the base of an adapter. They are loaded one after the other, so
    /// that it is known which one has ended the process, if one does.
    pub(super) fn is_base_busy(&self, id: InstanceId) -> bool {
        let base = self
            .instances
            .get(&id)
            .and_then(ModelInstance::attached_base);
        let Some(base) = base else {
            return false;
        };
        let mut others = self.instances.values().filter(|other| other.id != id);
        others.any(|other| {
            let is_loading = matches!(
                other.phase,
                InstancePhase::Loading { .. } | InstancePhase::LoadCancelled { .. }
            );
            is_loading && other.is_attached_to(base)
        })
    }

    /// Stops the instances of a model that are adapters of a base which is not there any more, and marks those whose
    /// base was replaced.
    pub(super) fn follow_base(&mut self, name: &ModelName) {
        let instances = self.instances.values().filter(|i| i.model == *name);
        let changes: Vec<(InstanceId, BaseChange)> = instances
            .map(|instance| (instance.id, self.base_change(instance)))
            .collect();
        for (id, change) in changes {
            match change {
                BaseChange::None => {}
                BaseChange::Replaced => {
                    let instance = self.instances.get_mut(&id);
                    if let Some(base) = instance.and_then(|instance| instance.base.as_mut()) {
                        base.is_replaced = true;
                    }
                }
                BaseChange::Gone => {
                    self.apply(id, InstanceEvent::Retire(RetireReason::NotDesired));
                }
            }
        }
    }

    fn base_change(&self, instance: &ModelInstance) -> BaseChange {
        let (Some(base), Some(attached)) = (&instance.base, instance.attached_base()) else {
            return BaseChange::None;
        };
        let current = self.ready_base(&base.name);
        match (&instance.phase, current) {
            (_, Some((current, _))) if Arc::ptr_eq(&current, attached) => BaseChange::None,
            (InstancePhase::Ready { .. }, Some(_)) => BaseChange::Replaced,
            // The load fails with the process, and says why that has ended.
            (InstancePhase::Loading { .. }, None) if self.has_ended(attached) => BaseChange::None,
            (
                InstancePhase::Checking
                | InstancePhase::Checked { .. }
                | InstancePhase::Fetching
                | InstancePhase::Loading { .. }
                | InstancePhase::Ready { .. },
                _,
            ) => BaseChange::Gone,
            // Those that have ended already, or wait to start anew, are attached to another base by themselves.
            _ => BaseChange::None,
        }
    }

    /// The loaded model of this name that takes requests, and what it takes its memory of.
    fn ready_base(&self, name: &ModelName) -> Option<(Arc<ServedModel>, MemoryPool)> {
        let current = self.instance(name, InstanceRole::Current)?;
        match &current.phase {
            InstancePhase::Ready { served, .. } => Some((served.clone(), current.pool())),
            _ => None,
        }
    }

    /// Whether a loaded model's process has ended by itself: it neither serves nor is it being unloaded.
    fn has_ended(&self, base: &Arc<ServedModel>) -> bool {
        let mut instances = self.instances.values();
        !instances.any(|instance| match &instance.phase {
            InstancePhase::Ready { served, .. } | InstancePhase::Draining { served, .. } => {
                Arc::ptr_eq(served, base)
            }
            _ => false,
        })
    }

    /// The memory of the adapters of a loaded model, which its process takes beside its own.
    pub(super) fn adapter_memory(&self, base: &Arc<ServedModel>) -> Bytes {
        let instances = self.instances.values();
        let adapters = instances.filter(|instance| instance.is_attached_to(base));
        let memory = adapters.map(|instance| instance.phase.memory());
        memory.fold(Bytes(0), |sum, memory| sum + memory)
    }
}
