//! Which replica answers.

mod two_choices;

pub use two_choices::{Load, two_choices};
