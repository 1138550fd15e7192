//! Which task a request belongs to, and which replica answers it.

mod classify;
mod two_choices;

pub use classify::{Classifier, Evidence, Examples, Ngram, Ranked, Reasons, Verdict};
pub use two_choices::{Load, two_choices};
