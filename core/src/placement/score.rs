//! Which of the nodes that may take a replica should.

use super::placement_state::{NodeAllocation, PlacementState};
use super::problem::{MeasuredPerformance, ModelDemand};

/// What a measurement that is as good as any measured one is worth, and an even share of
/// memory and of replicas: the three parts of a score, each from 0 to this.
const PART: f64 = 1_000.0;

/// The best that was measured of a model anywhere.
#[derive(Clone, Copy, Default)]
pub(super) struct BestPerformance {
    tokens_per_second: f64,
    joules_per_token: f64,
}

impl BestPerformance {
    pub(super) fn of(model: &ModelDemand<'_>) -> Self {
        let mut best = Self {
            tokens_per_second: 0.0,
            joules_per_token: f64::INFINITY,
        };
        for measured in model.performance.values() {
            let speed = measured.tokens_per_second.unwrap_or(0.0);
            best.tokens_per_second = best.tokens_per_second.max(speed);
            let joules = measured.joules_per_token.unwrap_or(f64::INFINITY);
            best.joules_per_token = best.joules_per_token.min(joules);
        }
        best
    }

    /// From 0 to [`PART`]: how near to the best in speed and energy, half each. What is not
    /// measured counts as half as good as the best, so that unknown nodes are tried before
    /// those known to be worse than that.
    fn worth(self, measured: Option<&MeasuredPerformance>, pressure_factor: f64) -> f64 {
        let speed = measured.and_then(|m| m.tokens_per_second);
        let joules = measured.and_then(|m| m.joules_per_token);
        let ratio = |part: f64, whole: f64| {
            let ratio = part / whole;
            if ratio.is_finite() {
                ratio.clamp(0.0, 1.0)
            } else {
                0.5
            }
        };
        let speed = speed.map_or(0.5, |speed| ratio(speed, self.tokens_per_second));
        let joules = joules.map_or(0.5, |joules| ratio(self.joules_per_token, joules));
        PART * (speed + joules) / 2.0 / pressure_factor.max(1.0)
    }
}

/// How well a replica of `model` would do on the node of `slot`; more is better. What was
/// measured, the memory left over and how few replicas are there already count alike, as in
/// Kubernetes' `NodeResourcesFit` with `LeastAllocated`.
pub(super) fn score(
    board: &PlacementState<'_>,
    model: &ModelDemand<'_>,
    best: BestPerformance,
    slot: &NodeAllocation,
) -> i64 {
    let node = board.node(slot);
    let measured = if model.performance.is_empty() {
        None
    } else {
        model.performance.get(node.name)
    };
    let needed = model.memory.unwrap_or_default();
    let left = slot.free.saturating_sub(needed).0 as f64 / node.memory.0.max(1) as f64;
    let few = 1.0 / f64::from(1 + slot.replicas);
    // Rounded, so that the order does not hang on the last bit of a division.
    (best.worth(measured, node.pressure_factor) + PART * left + PART * few).round() as i64
}
