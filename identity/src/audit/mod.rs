//! The record of changes and refusals.
