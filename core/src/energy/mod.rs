//! What a joule belongs to: where it was measured, which request it went to, and what it costs.
//!
//! [`Ledger`] divides what a node's meters count among the requests that it computed; [`PowerRange`] says
//! what it draws where nothing is metered; [`Grid`] turns joules into grams and money;
//! [`NodePressure`] is why a node is better left alone.

mod grid;
mod ledger;
mod node_pressure;
mod power;
mod source;

pub use grid::{Currency, EnergyCost, Grid, GridRates, GridSpec};
pub use ledger::{Ledger, LedgerTotals, MeterWindow};
pub use node_pressure::NodePressure;
pub use power::PowerRange;
pub use source::{EnergySource, EnergySources, EnergyUsage};
