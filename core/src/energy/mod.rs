//! What a joule belongs to: where it was measured, which request it went to, and what it costs.
//!
//! [`Ledger`] divides what a node's meters count among the requests that it computed; [`Power`] says
//! what it draws where nothing is metered; [`Grid`] turns joules into grams and money;
//! [`Strain`] is why a node is better left alone.

mod grid;
mod ledger;
mod power;
mod source;
mod strain;

pub use grid::{Currency, Grid, GridSpec, Price, Rates};
pub use ledger::{Ledger, Totals, Window};
pub use power::Power;
pub use source::{Source, Sources, Spent};
pub use strain::Strain;
