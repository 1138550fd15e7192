//! Sums over the nodes' reports at one moment.

use flotilla_core::energy::EnergySources;

use crate::fleet::FleetHandle;

/// Sums over the last reports of all linked nodes.
#[derive(Default)]
pub(super) struct NodeTotals {
    /// Requests that wait, on the controllers and on the nodes.
    pub(super) queued: u64,
    /// Power of the nodes in watts. `None` until a node has reported it.
    pub(super) watts: Option<f64>,
    /// The part of `watts` that is estimated.
    pub(super) estimated_watts: f64,
}

impl NodeTotals {
    /// Adds up the last reports of all reachable nodes.
    pub(super) fn read(fleet: &FleetHandle) -> Self {
        let view = fleet.view();
        let waiting = view.models.values().map(|model| u64::from(model.waiting));
        let mut totals = Self {
            queued: waiting.sum(),
            ..Self::default()
        };
        for node in view.nodes.values().filter(|node| node.linked_locally) {
            let report = node.report.load();
            let counters = report.models.iter().filter_map(|model| model.counters);
            totals.queued += counters
                .map(|counters| u64::from(counters.queued))
                .sum::<u64>();
            if let Some(energy) = &report.energy {
                let watts = f64::from(energy.watts);
                totals.watts = Some(totals.watts.unwrap_or(0.0) + watts);
                if !EnergySources::from_bits(energy.sources).is_measured() {
                    totals.estimated_watts += watts;
                }
            }
        }
        totals
    }
}
