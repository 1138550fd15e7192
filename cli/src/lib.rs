//! The `flotilla` command.
//!
//! `up`, `controller` and `agent` run a fleet in this process; all other commands talk to one over
//! its HTTP API. This crate owns the command line and the text that people read. It knows nothing
//! of the store, of placement or of engines: what a command does is a call into another crate or
//! into the API. Start reading at `args`, then at the module with the name of a command.

mod access;
mod agent;
mod allocator;
mod apply;
mod args;
mod audit;
mod backup;
mod backup_documents;
mod backup_files;
mod chat;
mod client;
mod connection_error;
mod contexts;
mod controller;
mod dataset;
mod decision_text;
mod default_data_dir;
mod delete;
mod describe;
mod encoder_text;
mod eval;
mod explain;
mod fleet_address;
mod get;
mod kept_documents;
mod keys;
mod logging;
mod login;
mod manifest;
mod node_operations;
mod other_documents;
mod output;
mod push;
mod reference;
mod resource_text;
mod run;
mod runner;
mod separation_text;
mod shutdown;
mod tasks;
mod top;
mod up;

pub use run::main;
