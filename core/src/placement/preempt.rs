//! Making room: idle replicas that their models can do without leave for one that is needed.

use std::time::Duration;

use super::placement_state::{PlacementState, PlannedReplica};
use crate::Bytes;

/// Replicas that may leave, by node; changes as they do.
pub(super) struct PreemptionVictims<'a> {
    /// By slot, the one unused for longest first.
    by_slot: Vec<Vec<(Duration, PlannedReplica<'a>)>>,
    /// By model: replicas above what it needs.
    spare: Vec<u32>,
}

impl<'a> PreemptionVictims<'a> {
    /// Those of `board`: idle, and of a model with more replicas than it requires.
    pub(super) fn new(board: &PlacementState<'a>) -> Self {
        let mut by_slot: Vec<Vec<(Duration, PlannedReplica<'a>)>> = Vec::new();
        by_slot.resize_with(board.slots.len(), Vec::new);
        let mut spare = vec![0; board.problem.models.len()];
        for (index, kept) in board.kept.iter().enumerate() {
            let required = board.model(index).required as usize;
            spare[index] = u32::try_from(kept.len().saturating_sub(required)).unwrap_or(u32::MAX);
            for replica in kept {
                if let Some(idle) = replica.standing.idle_for
                    && spare[index] > 0
                {
                    by_slot[replica.slot].push((idle, *replica));
                }
            }
        }
        for victims in &mut by_slot {
            victims.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.model.cmp(&b.1.model)));
        }
        Self { by_slot, spare }
    }

    /// The node where `needed` bytes become free at the smallest loss, with who leaves:
    /// the one whose most recently used victim was used longest ago.
    pub(super) fn find(
        &self,
        board: &PlacementState<'a>,
        needed: Bytes,
        mut allowed: impl FnMut(usize) -> bool,
    ) -> Option<(usize, Vec<PlannedReplica<'a>>)> {
        let mut best: Option<(Duration, usize, Vec<PlannedReplica<'a>>)> = None;
        for (slot, victims) in self.by_slot.iter().enumerate() {
            if victims.is_empty() || !allowed(slot) {
                continue;
            }
            let mut free = board.slots[slot].free;
            let mut leave = Vec::new();
            let mut latest = Duration::MAX;
            for (idle, victim) in victims {
                if free >= needed {
                    break;
                }
                let memory = board.model(victim.model).memory.unwrap_or_default();
                // A model is on a node once at most, so none of them is counted twice.
                if self.spare[victim.model] == 0 || memory == Bytes(0) {
                    continue;
                }
                free = free + memory;
                latest = latest.min(*idle);
                leave.push(*victim);
            }
            let better = best.as_ref().is_none_or(|(other, _, _)| latest > *other);
            if free >= needed && !leave.is_empty() && better {
                best = Some((latest, slot, leave));
            }
        }
        best.map(|(_, slot, leave)| (slot, leave))
    }

    /// They have left.
    pub(super) fn left(&mut self, slot: usize, gone: &[PlannedReplica<'a>]) {
        for victim in gone {
            self.spare[victim.model] -= 1;
        }
        let models: Vec<usize> = gone.iter().map(|victim| victim.model).collect();
        self.by_slot[slot].retain(|(_, victim)| !models.contains(&victim.model));
    }
}
