//! The memory of a node, divided into what replicas may take together: that of the node itself and of each of its GPUs.

use super::placement_state::NodeAllocation;
use super::problem::ModelDemand;
use super::unschedulable::UnschedulableReason;
use crate::Bytes;

/// A part of a node's memory. A replica takes all that it takes from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum MemoryPool {
    /// The memory of the node itself.
    Host,
    /// The memory of the GPU with this index.
    Gpu(usize),
}

/// What is free of a node's memory, and which replica takes of which part.
pub(super) struct FreeMemory {
    host: Bytes,
    gpus: Vec<Bytes>,
    /// The replicas on GPUs, by the indices of their models.
    on_gpus: Vec<(usize, usize)>,
}

impl FreeMemory {
    /// All of the memory.
    pub(super) fn new(host: Bytes, gpus: &[Bytes]) -> Self {
        Self {
            host,
            gpus: gpus.to_vec(),
            on_gpus: Vec::new(),
        }
    }

    pub(super) fn of(&self, pool: MemoryPool) -> Bytes {
        match pool {
            MemoryPool::Host => self.host,
            MemoryPool::Gpu(gpu) => self.gpus.get(gpu).copied().unwrap_or_default(),
        }
    }

    /// The pool that a placed replica of a model takes of. `uses_gpu`: it takes of a GPU, if the node has one.
    pub(super) fn pool_of(&self, model: usize, uses_gpu: bool) -> MemoryPool {
        let mut on_gpus = self.on_gpus.iter();
        match on_gpus.find(|(other, _)| *other == model) {
            Some((_, gpu)) if uses_gpu => MemoryPool::Gpu(*gpu),
            _ => MemoryPool::Host,
        }
    }

    /// The pools that a new replica of a model may take of, the one with the most free memory first. An adapter takes of
    /// that of its `base`.
    pub(super) fn usable(&self, uses_gpu: bool, base: Option<usize>) -> Vec<MemoryPool> {
        if !uses_gpu || self.gpus.is_empty() {
            return vec![MemoryPool::Host];
        }
        let with_base = base.and_then(|base| match self.pool_of(base, true) {
            MemoryPool::Gpu(gpu) => Some(gpu),
            MemoryPool::Host => None,
        });
        let mut gpus: Vec<usize> = match with_base {
            Some(gpu) => vec![gpu],
            None => (0..self.gpus.len()).collect(),
        };
        gpus.sort_by_key(|gpu| std::cmp::Reverse(self.gpus[*gpu]));
        gpus.into_iter().map(MemoryPool::Gpu).collect()
    }

    pub(super) fn take(&mut self, pool: MemoryPool, model: usize, bytes: Bytes) {
        let free = self.free_mut(pool);
        *free = free.saturating_sub(bytes);
        if let MemoryPool::Gpu(gpu) = pool {
            self.on_gpus.push((model, gpu));
        }
    }

    pub(super) fn give_back(&mut self, pool: MemoryPool, model: usize, bytes: Bytes) {
        let free = self.free_mut(pool);
        *free = *free + bytes;
        self.on_gpus.retain(|(other, _)| *other != model);
    }

    fn free_mut(&mut self, pool: MemoryPool) -> &mut Bytes {
        match pool {
            MemoryPool::Gpu(gpu) if gpu < self.gpus.len() => &mut self.gpus[gpu],
            MemoryPool::Gpu(_) | MemoryPool::Host => &mut self.host,
        }
    }
}

impl NodeAllocation<'_> {
    /// Returns the reason if the node, or every GPU of it, has too little free memory for a replica of
    /// `model`, whose `base`, if it is an adapter, has this index.
    pub(super) fn insufficient_memory(
        &self,
        model: &ModelDemand<'_>,
        base: Option<usize>,
    ) -> Option<UnschedulableReason> {
        let pool = self.best_pool(model, base);
        let (needed, free) = (model.needed_memory(pool), self.free.of(pool));
        (needed > free).then_some(match pool {
            MemoryPool::Host => UnschedulableReason::InsufficientMemory { needed, free },
            MemoryPool::Gpu(_) => UnschedulableReason::InsufficientDeviceMemory { needed, free },
        })
    }

    /// The pool with the most free memory of those that a new replica of `model` may take of.
    pub(super) fn best_pool(&self, model: &ModelDemand<'_>, base: Option<usize>) -> MemoryPool {
        let pools = self.free.usable(model.uses_accelerator, base);
        pools.first().copied().unwrap_or(MemoryPool::Host)
    }

    /// The whole memory of a pool.
    pub(super) fn size_of(&self, pool: MemoryPool) -> Bytes {
        match pool {
            MemoryPool::Host => self.capacity.memory,
            MemoryPool::Gpu(gpu) => self.capacity.gpus.get(gpu).copied().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use MemoryPool::{Gpu, Host};

    #[test]
    fn emptiest_gpu_comes_first_and_adapters_are_where_their_base_is() {
        let bytes = [Bytes(10), Bytes(30), Bytes(20)];
        let mut free = FreeMemory::new(Bytes(5), &bytes);
        assert_eq!(free.usable(true, None), [Gpu(1), Gpu(2), Gpu(0)]);
        assert_eq!(free.usable(false, None), [Host]);
        free.take(Gpu(1), 7, Bytes(25));
        assert_eq!(free.usable(true, None), [Gpu(2), Gpu(0), Gpu(1)]);
        assert_eq!(free.usable(true, Some(7)), [Gpu(1)]);
        assert_eq!(free.usable(true, Some(8)), [Gpu(2), Gpu(0), Gpu(1)]);
        assert_eq!(
            (free.pool_of(7, true), free.pool_of(8, true)),
            (Gpu(1), Host)
        );
        free.give_back(Gpu(1), 7, Bytes(25));
        assert_eq!(free.of(Gpu(1)), Bytes(30));
        assert_eq!(free.pool_of(7, true), Host);
        let none = FreeMemory::new(Bytes(5), &[]);
        assert_eq!(none.usable(true, None), [Host]);
    }
}
