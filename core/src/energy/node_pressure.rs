//! A node that is better left alone: one that lives off its battery, or is slowed down by heat.

use std::fmt;

/// What strains a node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct NodePressure {
    /// How full its battery is (0 to 1), if it lives off it.
    pub battery: Option<f32>,
    /// Whether it is slowed down by heat.
    pub throttled: bool,
}

impl NodePressure {
    /// By which factor it counts as slower and as taking more energy than it does, at least 1, so
    /// that it is used less but not shut out. Ours to choose: a full battery costs half as much
    /// again, an empty one three and a half times, and heat twice, as it gets worse with every
    /// request.
    #[must_use]
    pub fn factor(self) -> f32 {
        let battery = self
            .battery
            .map_or(1.0, |charge| 1.5 + 2.0 * (1.0 - charge.clamp(0.0, 1.0)));
        battery * if self.throttled { 2.0 } else { 1.0 }
    }

    /// Whether there is any.
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
    fn the_emptier_the_battery_the_less_a_node_is_used() {
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
