//! The space of a file system, and how much of it files of models leave to others.

/// The share of the file system that is left to others.
const RESERVE_SHARE: u64 = 20;
/// The bounds of what is left to others.
const MIN_RESERVE: u64 = 256 << 20;
const MAX_RESERVE: u64 = 1 << 30;

/// The space of a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// The size of the file system.
    pub total: u64,
    /// Free for this user.
    pub free: u64,
}

impl DiskSpace {
    /// Returns what may be written beside the reserve: 5 % of the file system, at least 256 MiB and at
    /// most 1 GiB.
    #[must_use]
    pub fn usable(self) -> u64 {
        self.free.saturating_sub(self.reserve())
    }

    /// Returns the bytes that must be freed before `needed` bytes may be written beside the reserve.
    #[must_use]
    pub fn missing(self, needed: u64) -> u64 {
        needed
            .saturating_add(self.reserve())
            .saturating_sub(self.free)
    }

    fn reserve(self) -> u64 {
        (self.total / RESERVE_SHARE).clamp(MIN_RESERVE, MAX_RESERVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserve_is_a_share_of_the_file_system_within_bounds() {
        const MIB: u64 = 1 << 20;
        for (total, reserve) in [(100, 256), (10 << 10, 512), (1 << 20, 1_024)] {
            let space = DiskSpace {
                total: total * MIB,
                free: 2_000 * MIB,
            };
            assert_eq!(space.usable(), (2_000 - reserve) * MIB);
            assert_eq!(space.missing(space.usable()), 0);
            assert_eq!(space.missing(space.usable() + 7), 7);
            let full = DiskSpace { free: 0, ..space };
            assert_eq!(full.missing(7), reserve * MIB + 7);
        }
    }
}
