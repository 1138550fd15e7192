//! Which task a request belongs to, and which replica answers it.

mod breaker;
mod classify;
mod decision;
mod select;

pub use breaker::Breaker;
pub use classify::{
    Classifier, Evidence, Examples, Kind as NgramKind, Ngram, Ranked, Reasons, Verdict,
};
pub use decision::{Candidate, Classified, Decision, End, Outcome, Reason, Rejected};
pub use select::{Load, Prospect, select};
