//! Who may do what in a fleet. Nothing here knows HTTP, the store or the fleet's state: everything is a pure function
//! over records, and time is passed in.

pub mod audit;
pub mod authority;
pub mod enrolment;
pub mod keys;
mod random;

pub use random::random_id;
