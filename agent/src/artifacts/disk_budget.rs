//! The disk space for the files of models.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_core::Bytes;
use flotilla_core::disk::DiskSpace;

/// The part of the budget that it must change by.
const NOTABLE_SHARE: u64 = 16;

/// The default budget beside files of models that take `used` bytes already: an equal share for each of
/// `agents` of what is free, less the reserve.
pub(super) fn default_budget(space: DiskSpace, used: u64, agents: u32) -> Bytes {
    let share = space.usable() / u64::from(agents.max(1));
    Bytes(share.saturating_add(used))
}

/// The budget to use after `current`, when `computed` follows from the space that is free by now. Small
/// changes, such as those of a log that grows, do not make the placement look again.
pub(super) fn adjusted_budget(current: Bytes, computed: Bytes) -> Bytes {
    let is_notable = current.0.abs_diff(computed.0) > current.0 / NOTABLE_SHARE;
    if is_notable || (current.0 == 0) != (computed.0 == 0) {
        computed
    } else {
        current
    }
}

/// The bytes that may be written now: what the budget leaves beside the files that exist (`used`) and the
/// running fetches (`reserved`), and no more than what the file system has.
pub(super) fn available(budget: Bytes, used: u64, reserved: u64, space: Option<DiskSpace>) -> u64 {
    let of_budget = budget.0.saturating_sub(used);
    let of_disk = space.map_or(u64::MAX, |space| space.free);
    of_budget.min(of_disk).saturating_sub(reserved)
}

/// The bytes that running fetches will still write.
#[derive(Clone, Default)]
pub(super) struct ReservedSpace(Arc<AtomicU64>);

impl ReservedSpace {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Reserves space until the returned value is dropped.
    pub(super) fn reserve(&self, bytes: u64) -> Reservation {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Reservation {
            total: self.0.clone(),
            remaining: AtomicU64::new(bytes),
        }
    }
}

/// The space that one fetch will still take.
pub(super) struct Reservation {
    total: Arc<AtomicU64>,
    remaining: AtomicU64,
}

impl Reservation {
    /// Gives back what has been written, of which `remaining` bytes are left.
    pub(super) fn shrink_to(&self, remaining: u64) {
        let before = self.remaining.fetch_min(remaining, Ordering::Relaxed);
        let written = before.saturating_sub(remaining);
        self.total.fetch_sub(written, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_default_budget_leaves_a_reserve() {
        let budget =
            |total, free, used, agents| default_budget(DiskSpace { total, free }, used, agents);
        assert_eq!(budget(100 * GIB, 50 * GIB, 2 * GIB, 1), Bytes(51 * GIB));
        assert_eq!(budget(1000 * GIB, 41 * GIB, 0, 4), Bytes(10 * GIB));
        assert_eq!(budget(GIB, GIB / 8, 0, 1), Bytes(0));
    }

    #[test]
    fn budget_follows_notable_changes_of_the_free_space() {
        let adjusted = |current, computed| adjusted_budget(Bytes(current), Bytes(computed)).0;
        assert_eq!(adjusted(160, 168), 160);
        assert_eq!(adjusted(160, 100), 100);
        assert_eq!(adjusted(0, 1), 1);
        assert_eq!(adjusted(8, 0), 0);
    }

    #[test]
    fn neither_the_budget_nor_the_disk_nor_a_running_fetch_is_overrun() {
        let disk = |free| Some(DiskSpace { total: 100, free });
        assert_eq!(available(Bytes(50), 20, 0, disk(90)), 30);
        assert_eq!(available(Bytes(50), 20, 0, disk(10)), 10);
        assert_eq!(available(Bytes(50), 60, 0, disk(10)), 0);
        let reserved = ReservedSpace::default();
        let fetch = reserved.reserve(25);
        assert_eq!(available(Bytes(50), 20, reserved.bytes(), None), 5);
        fetch.shrink_to(10);
        fetch.shrink_to(12);
        assert_eq!(reserved.bytes(), 10);
        drop(fetch);
        assert_eq!(reserved.bytes(), 0);
    }
}
