//! Whether the node has memory for one more model instance.

use flotilla_core::Bytes;

/// The memory of a node for all models together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeMemory {
    /// The memory of the node itself.
    pub(crate) host: Bytes,
    /// The memory of each of its GPUs, which the models that use one take instead. Empty: it has none, or
    /// one that shares the memory of the node.
    pub(crate) gpus: Vec<Bytes>,
}

/// A part of a node's memory, of which an instance takes all that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemoryPool {
    /// The memory of the node itself.
    Host,
    /// The memory of the GPU with this index.
    Gpu(u32),
}

impl MemoryPool {
    /// The index of the GPU.
    pub(super) fn gpu(self) -> Option<u32> {
        match self {
            Self::Host => None,
            Self::Gpu(gpu) => Some(gpu),
        }
    }
}

/// How much of a pool is in use.
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
    pub(super) pool: MemoryPool,
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

/// Decides whether an instance that needs `needed` bytes can be loaded, and from which of `pools` it takes them: the one
/// with the most free memory, if that is enough. `replaceable` is what the staying instance takes that it replaces, if there
/// is one.
pub(super) fn decide(
    memory: &NodeMemory,
    pools: &[MemoryPool],
    instances: &[InstanceMemory],
    needed: Bytes,
    replaceable: Option<InstanceMemory>,
) -> (MemoryDecision, MemoryPool) {
    let decisions = pools.iter().map(|pool| {
        let budget = MemoryBudget::new(memory, *pool, instances);
        let replaceable = replaceable.filter(|replaced| replaced.pool == *pool);
        let decision = budget.decide(needed, replaceable.map(|replaced| replaced.bytes));
        (decision, budget.free(), *pool)
    });
    // The first of the best ones.
    let best = decisions.reduce(|best, other| {
        let rank = |(decision, free, _): &(MemoryDecision, Bytes, MemoryPool)| {
            let rank = match decision {
                MemoryDecision::Load => 3,
                MemoryDecision::Wait => 2,
                MemoryDecision::ReplaceFirst => 1,
                MemoryDecision::Refuse { .. } => 0,
            };
            (rank, *free)
        };
        match rank(&other) > rank(&best) {
            true => other,
            false => best,
        }
    });
    let refused = MemoryDecision::Refuse { free: Bytes(0) };
    best.map_or((refused, MemoryPool::Host), |(decision, _, pool)| {
        (decision, pool)
    })
}

impl MemoryBudget {
    /// Sums up what `instances` take of a pool.
    fn new(memory: &NodeMemory, pool: MemoryPool, instances: &[InstanceMemory]) -> Self {
        let gpu = |gpu: u32| memory.gpus.get(gpu as usize).copied();
        let mut budget = Self {
            total: match pool {
                MemoryPool::Host => memory.host,
                MemoryPool::Gpu(index) => gpu(index).unwrap_or_default(),
            },
            staying: Bytes(0),
            leaving: Bytes(0),
        };
        for instance in instances.iter().filter(|instance| instance.pool == pool) {
            if instance.is_leaving {
                budget.leaving = budget.leaving + instance.bytes;
            } else {
                budget.staying = budget.staying + instance.bytes;
            }
        }
        budget
    }

    fn free(&self) -> Bytes {
        self.total.saturating_sub(self.staying + self.leaving)
    }

    /// Decides whether an instance that needs `needed` bytes can be loaded. `replaceable` is the memory of the staying
    /// instance that it replaces, if there is one.
    fn decide(&self, needed: Bytes, replaceable: Option<Bytes>) -> MemoryDecision {
        let free = self.free();
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

    fn taken(bytes: u64, pool: MemoryPool, is_leaving: bool) -> InstanceMemory {
        InstanceMemory {
            bytes: Bytes(bytes),
            pool,
            is_leaving,
        }
    }

    fn budget(staying: u64, leaving: u64) -> MemoryBudget {
        let memory = NodeMemory {
            host: Bytes(100),
            gpus: Vec::new(),
        };
        let host = MemoryPool::Host;
        let instances = [taken(staying, host, false), taken(leaving, host, true)];
        MemoryBudget::new(&memory, host, &instances)
    }

    #[test]
    fn memory_of_gpus_and_of_the_node_do_not_add_up() {
        use MemoryPool::{Gpu, Host};
        let memory = NodeMemory {
            host: Bytes(10),
            gpus: vec![Bytes(100), Bytes(60)],
        };
        let instances = [
            taken(9, Host, false),
            taken(70, Gpu(0), false),
            taken(20, Gpu(1), true),
        ];
        let on_gpus = [Gpu(0), Gpu(1)];
        let decide = |pools: &[MemoryPool], needed, replaced| {
            decide(&memory, pools, &instances, Bytes(needed), replaced)
        };
        let load = MemoryDecision::Load;
        assert_eq!(decide(&on_gpus, 30, None), (load, Gpu(1)), "it has more");
        assert_eq!(decide(&on_gpus[..1], 30, None), (load, Gpu(0)));
        assert_eq!(decide(&on_gpus, 50, None), (MemoryDecision::Wait, Gpu(1)));
        let free = Bytes(40);
        let refused = MemoryDecision::Refuse { free };
        assert_eq!(decide(&on_gpus, 61, None), (refused, Gpu(1)));
        let replaced = Some(taken(70, Gpu(0), false));
        let replace = MemoryDecision::ReplaceFirst;
        assert_eq!(decide(&on_gpus, 61, replaced), (replace, Gpu(0)));
        let refused = MemoryDecision::Refuse { free: Bytes(1) };
        assert_eq!(decide(&[Host], 2, None), (refused, Host));
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
