//! How nodes become part of a fleet: join tokens and enrolment records.
//!
//! A node enrols once, with a [`Credential`]: [`decide_enrolment`] makes its [`Enrolment`], the record that its name,
//! zones and protected labels come from. Afterwards its certificate is compared with that record each time that it
//! joins a controller ([`decide_join`]).

mod decision;
mod join_token;
mod record;

pub use decision::{
    Credential, EnrolmentDecision, EnrolmentRefusal, EnrolmentRequest, JoinDenial,
    decide_enrolment, decide_join,
};
pub use join_token::{JoinToken, JoinTokenError, JoinTokenRecord, TokenState};
pub use record::Enrolment;
