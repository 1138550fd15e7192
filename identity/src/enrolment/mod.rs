//! How nodes become part of a fleet: join tokens and enrolment records.
