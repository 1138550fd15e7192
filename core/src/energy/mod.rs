//! Energy: where joules are measured, which request they are attributed to, and what they cost.
//!
//! [`Ledger`] attributes the metered energy of a node to its requests, whose work [`EngineTime`] measures; [`PowerRange`] estimates the
//! energy where nothing is metered; [`Grid`] converts joules to grams of CO2 and to money;
//! [`NodePressure`] says why a node should be used less.

mod engine_time;
mod grid;
mod ledger;
mod node_pressure;
mod power;
mod source;

pub use engine_time::{EngineTime, Progress};
pub use grid::{Currency, EnergyCost, Grid, GridRates, GridSpec};
pub use ledger::{ChannelWindow, GpuUse, Ledger, LedgerTotals, MeterWindow, MeteredPart, Work};
pub use node_pressure::NodePressure;
pub use power::PowerRange;
pub use source::{EnergySource, EnergySources, EnergyUsage};
