//! Preferences: how well a node suits a new replica.

use super::placement_state::NodeAllocation;
use super::problem::{MeasuredPerformance, ModelDemand};

/// The largest value of each of the three components of a score: performance, free memory and
/// number of replicas.
const COMPONENT_MAX: f64 = 1_000.0;

/// The best measured performance of a model on any node.
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

    /// Returns the performance component of a score, 0 to [`COMPONENT_MAX`]: the mean of speed and
    /// energy efficiency relative to the best. A value that is not measured counts as half of the
    /// best, so that a node without measurements is preferred to one known to be worse than that.
    fn component(self, measured: Option<&MeasuredPerformance>, pressure_factor: f64) -> f64 {
        let speed = measured.and_then(|m| m.tokens_per_second);
        let joules = measured.and_then(|m| m.joules_per_token);
        let ratio = |numerator: f64, denominator: f64| {
            let ratio = numerator / denominator;
            if ratio.is_finite() {
                ratio.clamp(0.0, 1.0)
            } else {
                0.5
            }
        };
        let speed = speed.map_or(0.5, |speed| ratio(speed, self.tokens_per_second));
        let efficiency = joules.map_or(0.5, |joules| ratio(self.joules_per_token, joules));
        COMPONENT_MAX * (speed + efficiency) / 2.0 / pressure_factor.max(1.0)
    }
}

/// Returns how well a new replica of `model`, whose `base` has this index if it is an adapter, would suit a node; more is
/// better. Measured
/// performance, memory left and a small number of replicas count alike, similar to
/// `NodeResourcesFit` with `LeastAllocated` in Kubernetes.
pub(super) fn score(
    model: &ModelDemand<'_>,
    base: Option<usize>,
    best: BestPerformance,
    node: &NodeAllocation<'_>,
) -> i64 {
    let capacity = node.capacity;
    let measured = if model.performance.is_empty() {
        None
    } else {
        model.performance.get(capacity.name)
    };
    let pool = node.best_pool(model, base);
    let left = node.free.of(pool).saturating_sub(model.needed_memory(pool));
    let memory_left = left.0 as f64 / node.size_of(pool).0.max(1) as f64;
    let replica_share = 1.0 / f64::from(1 + node.replicas);
    // Rounded, so that the last bit of a division does not decide the order.
    (best.component(measured, capacity.pressure_factor)
        + COMPONENT_MAX * memory_left
        + COMPONENT_MAX * replica_share)
        .round() as i64
}
