//! Adapters, which run in the process of their base: they are loaded once it is ready, and leave before it does.

use std::sync::Arc;

use flotilla_core::{Bytes, ModelName};

use super::ModelManager;
use crate::models::ServedModel;
use crate::models::instance::{
    InstanceEvent, InstanceId, InstancePhase, InstanceRole, ModelInstance, RetireReason,
};

impl ModelManager {
    /// Lets an instance that is an adapter be loaded onto its base. Returns whether it can start: it is no adapter, or
    /// its base is ready.
    pub(super) fn join_base(&mut self, id: InstanceId) -> bool {
        let base = self.instances.get(&id).and_then(|i| i.base.as_ref());
        let Some(name) = base.map(|base| base.name.clone()) else {
            return true;
        };
        let served = self.ready_base(&name);
        let is_ready = served.is_some();
        let base = self.instances.get_mut(&id).and_then(|i| i.base.as_mut());
        if let Some(base) = base {
            base.served = served;
        }
        is_ready
    }

    /// Stops the instances of a model that are adapters of a base which leaves, was replaced or has ended. Others start
    /// once their base is ready.
    pub(super) fn leave_base(&mut self, name: &ModelName) {
        let instances = self.instances.values().filter(|i| i.model == *name);
        let leaving: Vec<InstanceId> = instances
            .filter(|instance| self.must_leave_base(instance))
            .map(|instance| instance.id)
            .collect();
        for id in leaving {
            self.apply(id, InstanceEvent::Retire(RetireReason::NotDesired));
        }
    }

    fn must_leave_base(&self, instance: &ModelInstance) -> bool {
        let Some(base) = &instance.base else {
            return false;
        };
        let Some(joined) = &base.served else {
            return false;
        };
        // Those that have ended already, or wait to start anew, join another base by themselves.
        let is_bound = matches!(
            instance.phase,
            InstancePhase::Checking
                | InstancePhase::Checked { .. }
                | InstancePhase::Fetching
                | InstancePhase::Loading { .. }
                | InstancePhase::Ready { .. }
        );
        let current = self.ready_base(&base.name);
        is_bound && !current.is_some_and(|current| Arc::ptr_eq(&current, joined))
    }

    /// The loaded model of this name that takes requests.
    fn ready_base(&self, name: &ModelName) -> Option<Arc<ServedModel>> {
        let current = self.instance(name, InstanceRole::Current)?;
        match &current.phase {
            InstancePhase::Ready { served, .. } => Some(served.clone()),
            _ => None,
        }
    }

    /// The memory of the adapters of a loaded model, which its process takes beside its own.
    pub(super) fn adapter_memory(&self, base: &Arc<ServedModel>) -> Bytes {
        let adapters = self.instances.values().filter(|instance| {
            let joined = instance.base.as_ref().and_then(|base| base.served.as_ref());
            joined.is_some_and(|joined| Arc::ptr_eq(joined, base))
        });
        let memory = adapters.map(|instance| instance.phase.memory());
        memory.fold(Bytes(0), |sum, memory| sum + memory)
    }
}
