//! Which task a request belongs to, which model and replica answers it, and when its answer is good
//! enough.

mod affinity;
mod breaker;
mod cascade;
mod classify;
mod decision;
mod goals;
mod prefer;
mod select;
mod standing;
pub mod tradeoff;

pub use affinity::{Mark, marks};

pub use breaker::Breaker;
pub use cascade::{Accept, Cascade, Confidence, Measure};
pub use classify::{
    Classifier, Evidence, Examples, Kind as NgramKind, Ngram, Ranked, Reasons, Verdict,
};
pub use decision::{
    Affinity, Candidate, Classified, Decision, End, Hedge, Outcome, Reason, Rejected, Tier,
    TierVerdict,
};
pub use goals::{Breach, Expected, Limits, Score, Weights, is_longer, nearest, score};
pub use prefer::{Contender, prefer, standings};
pub use select::{Load, Look, select};
pub use standing::Standing;
