//! Which instance of a model is the current one, the next one, or retired.

use flotilla_core::ModelName;

use super::ModelManager;
use crate::models::instance::{
    InstanceEvent, InstanceId, InstanceRole, ModelInstance, RetireReason,
};

impl ModelManager {
    /// Makes the next instance the current one, and retires the one that it replaces.
    pub(super) fn promote(&mut self, id: InstanceId) {
        let Some(instance) = self.instances.get(&id) else {
            return;
        };
        if instance.role != InstanceRole::Next {
            return;
        }
        let replaced = self.instance(&instance.model, InstanceRole::Current);
        let replaced = replaced.map(|replaced| replaced.id);
        self.set_role(id, InstanceRole::Current);
        if let Some(replaced) = replaced {
            self.set_role(replaced, InstanceRole::Retired);
            self.apply(replaced, InstanceEvent::Retire(RetireReason::Replaced));
        }
    }

    /// Removes an instance that is gone. If it was the current one, the next one becomes current.
    pub(super) fn remove_instance(&mut self, id: InstanceId) {
        let Some(removed) = self.instances.remove(&id) else {
            return;
        };
        self.files_changed = true;
        if removed.role == InstanceRole::Current {
            self.make_next_current(&removed.model);
        }
        if removed.role == InstanceRole::Retired {
            self.start_successors(&removed);
        }
    }

    /// Makes the next instance of a model, if there is one, the current one.
    fn make_next_current(&mut self, model: &ModelName) {
        if let Some(next) = self.instance(model, InstanceRole::Next) {
            let next = next.id;
            self.set_role(next, InstanceRole::Current);
        }
    }

    /// Lets instances start that could not beside this one, whose process could not be ended.
    fn start_successors(&mut self, removed: &ModelInstance) {
        let same = self.instances.values().filter(|instance| {
            instance.model == removed.model && instance.revision == removed.revision
        });
        let same: Vec<InstanceId> = same.map(|instance| instance.id).collect();
        for id in same {
            self.apply(id, InstanceEvent::OtherProcessEnded);
        }
    }

    /// Returns the instance of a model with this role.
    pub(super) fn instance(&self, model: &ModelName, role: InstanceRole) -> Option<&ModelInstance> {
        let mut instances = self.instances.values();
        instances.find(|instance| instance.role == role && instance.model == *model)
    }

    pub(super) fn set_role(&mut self, id: InstanceId, role: InstanceRole) {
        if let Some(instance) = self.instances.get_mut(&id) {
            instance.role = role;
        }
    }

    /// Retires the current instance, so that another one can be started.
    pub(super) fn set_aside(&mut self, name: &ModelName) {
        if let Some(current) = self.instance(name, InstanceRole::Current) {
            let id = current.id;
            self.set_role(id, InstanceRole::Retired);
            self.make_next_current(name);
        }
    }
}
