//! Power and thermal pressure: reasons to use a node less.

use std::fmt;

/// The power and thermal pressure of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct NodePressure {
    /// The charge of the battery, 0 to 1, if the node runs on battery.
    pub battery: Option<f32>,
    /// Whether the node is thermally throttled.
    pub throttled: bool,
}

impl NodePressure {
    /// The factor, at least 1, by which the time and energy of the node are multiplied when replicas
    /// are compared, so that it is used less but not excluded. Our own choice: 1.5 for a full
    /// battery up to 3.5 for an empty one, times 2 for throttling, since every request makes it
    /// worse.
    #[must_use]
    pub fn factor(self) -> f32 {
        let battery = self
            .battery
            .map_or(1.0, |charge| 1.5 + 2.0 * (1.0 - charge.clamp(0.0, 1.0)));
        battery * if self.throttled { 2.0 } else { 1.0 }
    }

    /// Whether there is no pressure.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

impl fmt::Display for NodePressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let battery = self
            .battery
            .map(|charge| format!("on battery, {:.0} % full", charge * 100.0));
        let heat = self.throttled.then(|| "slowed down by heat".to_owned());
        let parts: Vec<_> = battery.into_iter().chain(heat).collect();
        write!(
            f,
            "{} (counts as {:.1} times as slow)",
            parts.join(", "),
            self.factor()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factor_grows_as_the_battery_empties() {
        let on = |charge| NodePressure {
            battery: Some(charge),
            throttled: false,
        };
        assert_eq!(NodePressure::default().factor(), 1.0);
        assert!(on(1.0).factor() > 1.0 && on(0.1).factor() > on(0.9).factor());
        let both = NodePressure {
            throttled: true,
            ..on(0.4)
        };
        assert_eq!(
            both.to_string(),
            "on battery, 40 % full, slowed down by heat (counts as 5.4 times as slow)"
        );
    }
}
