//! Decides when the node's energy is reported to a controller.

use std::time::Instant;

use flotilla_proto::v1::NodeEnergy;

/// Seconds after which the energy is reported again even without a notable change.
const REPORT_INTERVAL: f64 = 5.0;
/// Relative change of the power draw that is reported at once.
const WATTS_CHANGE: f32 = 0.1;

/// The last energy report of a session.
#[derive(Default)]
pub(super) struct EnergyReporter {
    last: Option<(Instant, NodeEnergy)>,
}

impl EnergyReporter {
    /// Returns the report to send now, if one is due.
    pub(super) fn next_report(&mut self, current: NodeEnergy) -> Option<NodeEnergy> {
        if let Some((time, reported)) = &self.last
            && time.elapsed().as_secs_f64() < REPORT_INTERVAL
            && !has_changed(reported, &current)
        {
            return None;
        }
        self.last = Some((Instant::now(), current.clone()));
        Some(current)
    }
}

/// Whether the power draw or the condition has changed notably since the last report.
fn has_changed(reported: &NodeEnergy, current: &NodeEnergy) -> bool {
    (current.watts - reported.watts).abs() > WATTS_CHANGE * reported.watts.max(1.0)
        || current.throttle_reason != reported.throttle_reason
        || current.battery != reported.battery
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notable_change_is_reported_at_once_and_a_small_one_is_not() {
        let energy = |watts: f32, throttle_reason: &str| NodeEnergy {
            watts,
            throttle_reason: throttle_reason.into(),
            ..NodeEnergy::default()
        };
        let mut reporter = EnergyReporter::default();
        assert!(reporter.next_report(energy(100.0, "")).is_some());
        assert_eq!(reporter.next_report(energy(109.0, "")), None);
        assert!(reporter.next_report(energy(111.0, "")).is_some());
        assert!(reporter.next_report(energy(111.0, "hot")).is_some());
    }
}
