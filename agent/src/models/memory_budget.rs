//! Whether the node has memory for one more model instance.

use flotilla_core::Bytes;

/// The memory of a node for all models together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeMemory {
    /// The memory of the node itself.
    pub(crate) host: Bytes,
    /// The memory of its accelerator, which the models that use it take instead. `None`: it has none, or
    /// one that shares the memory of the node.
    pub(crate) device: Option<Bytes>,
}

/// How much of the node's memory for models is in use, or of its accelerator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryBudget {
    /// Memory for all models together.
    total: Bytes,
    /// Memory of the instances that keep it.
    staying: Bytes,
    /// Memory of the instances that are being unloaded.
    leaving: Bytes,
}

/// The memory of one instance.
#[derive(Debug, Clone, Copy)]
pub(super) struct InstanceMemory {
    pub(super) bytes: Bytes,
    /// Whether it is memory of the node's accelerator.
    pub(super) on_device: bool,
    /// Whether the instance is being unloaded.
    pub(super) is_leaving: bool,
}

/// Whether an instance can be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemoryDecision {
    /// There is enough free memory now.
    Load,
    /// There will be enough once the leaving instances are unloaded.
    Wait,
    /// There will be enough only after the instance that it replaces is unloaded.
    ReplaceFirst,
    /// There is too little memory.
    Refuse {
        /// Memory that is free now.
        free: Bytes,
    },
}

impl MemoryBudget {
    /// Sums up what `instances` take of the memory of the node, or of its accelerator if `on_device`.
    pub(super) fn new(
        memory: NodeMemory,
        on_device: bool,
        instances: impl IntoIterator<Item = InstanceMemory>,
    ) -> Self {
        let mut budget = Self {
            total: match on_device {
                true => memory.device.unwrap_or_default(),
                false => memory.host,
            },
            staying: Bytes(0),
            leaving: Bytes(0),
        };
        let sharing = |instance: &InstanceMemory| instance.on_device == on_device;
        for instance in instances.into_iter().filter(sharing) {
            if instance.is_leaving {
                budget.leaving = budget.leaving + instance.bytes;
            } else {
                budget.staying = budget.staying + instance.bytes;
            }
        }
        budget
    }

    /// Decides whether an instance that needs `needed` bytes can be loaded. `replaceable` is the memory of the staying
    /// instance that it replaces, if there is one.
    pub(super) fn decide(&self, needed: Bytes, replaceable: Option<Bytes>) -> MemoryDecision {
        let free = self.total.saturating_sub(self.staying + self.leaving);
        if needed <= free {
            MemoryDecision::Load
        } else if needed <= self.total.saturating_sub(self.staying) {
            MemoryDecision::Wait
        } else if replaceable.is_some_and(|bytes| needed <= free + bytes + self.leaving) {
            MemoryDecision::ReplaceFirst
        } else {
            MemoryDecision::Refuse { free }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(staying: u64, leaving: u64) -> MemoryBudget {
        let instance = |bytes, is_leaving| InstanceMemory {
            bytes: Bytes(bytes),
            on_device: false,
            is_leaving,
        };
        let memory = NodeMemory {
            host: Bytes(100),
            device: None,
        };
        let instances = [instance(staying, false), instance(leaving, true)];
        MemoryBudget::new(memory, false, instances)
    }

    #[test]
    fn memory_of_the_accelerator_and_of_the_node_do_not_add_up() {
        let memory = NodeMemory {
            host: Bytes(10),
            device: Some(Bytes(100)),
        };
        let taken = |bytes, on_device| InstanceMemory {
            bytes: Bytes(bytes),
            on_device,
            is_leaving: false,
        };
        let decide = |on_device, needed| {
            let instances = [taken(9, false), taken(60, true)];
            MemoryBudget::new(memory, on_device, instances).decide(Bytes(needed), None)
        };
        assert_eq!(decide(true, 40), MemoryDecision::Load);
        let free = Bytes(40);
        assert_eq!(decide(true, 41), MemoryDecision::Refuse { free });
        assert_eq!(decide(false, 1), MemoryDecision::Load);
        let free = Bytes(1);
        assert_eq!(decide(false, 2), MemoryDecision::Refuse { free });
    }

    #[test]
    fn free_memory_is_used_at_once() {
        assert_eq!(budget(60, 10).decide(Bytes(30), None), MemoryDecision::Load);
    }

    #[test]
    fn memory_of_leaving_instances_is_waited_for() {
        assert_eq!(budget(60, 10).decide(Bytes(40), None), MemoryDecision::Wait);
    }

    #[test]
    fn the_replaced_instance_leaves_first_only_if_that_is_enough() {
        let replaceable = Some(Bytes(60));
        assert_eq!(
            budget(60, 10).decide(Bytes(100), replaceable),
            MemoryDecision::ReplaceFirst
        );
        assert_eq!(
            budget(60, 10).decide(Bytes(101), replaceable),
            MemoryDecision::Refuse { free: Bytes(30) }
        );
        assert_eq!(
            budget(60, 10).decide(Bytes(41), None),
            MemoryDecision::Refuse { free: Bytes(30) }
        );
    }
}
