//! The memory that a loaded model is charged, from what its process has taken.

use flotilla_core::Bytes;

/// What the process of a model has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryUsage {
    /// The peak of its memory since the model was loaded.
    pub(super) peak: Bytes,
    /// Whether requests have filled all contexts that the model computes at once since then, so that it will
    /// hardly need more. Not known of a model that computes several.
    pub(super) has_filled_context: bool,
}

/// Charges that differ by less than this part of themselves are not worth a report.
const SIGNIFICANT_PART: u64 = 50;

/// Returns the memory to charge a model instead of `charged`, an estimate at first. `None` if it stays:
/// until its contexts were filled once, a model is charged what it may still need.
pub(super) fn charged_memory(charged: Bytes, usage: MemoryUsage) -> Option<Bytes> {
    let charge = if usage.has_filled_context {
        usage.peak
    } else {
        usage.peak.max(charged)
    };
    let is_significant = charge.0.abs_diff(charged.0) > charged.0 / SIGNIFICANT_PART;
    is_significant.then_some(charge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimate_is_lowered_only_once_the_context_was_filled() {
        let charge = |charged, peak, has_filled_context| {
            let usage = MemoryUsage {
                peak: Bytes(peak),
                has_filled_context,
            };
            charged_memory(Bytes(charged), usage).map(|bytes| bytes.0)
        };
        assert_eq!(charge(1_000, 700, false), None);
        assert_eq!(charge(1_000, 700, true), Some(700));
        assert_eq!(charge(1_000, 1_200, false), Some(1_200));
        assert_eq!(charge(1_000, 1_019, true), None);
    }
}
