//! Which task a request belongs to, and which replica answers it.

mod classify;
mod decision;
mod two_choices;

pub use classify::{
    Classifier, Evidence, Examples, Kind as NgramKind, Ngram, Ranked, Reasons, Verdict,
};
pub use decision::{Candidate, Classified, Decision, End, Outcome, Reason, Rejected};
pub use two_choices::{Load, two_choices};
