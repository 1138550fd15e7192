//! Model files on the controllers: fetched or uploaded once, stored under their digests, and served
//! to agents and other controllers.
//!
//! A [`Manifest`](flotilla_core::artifact::Manifest) in the store lists the files of a model, so that
//! all controllers agree on them; the files themselves are on the controllers' disks. The leader
//! fetches (`fetch.rs`), the other controllers copy (`copies.rs`), and an agent reads a file from any
//! controller that has it. A file that no controller has any more is copied back from a node.
//! `replicator.rs` drives all of it.

mod blob_error;
mod blob_index;
mod blobs;
mod copies;
mod fetch;
mod fetch_job;
mod fetched_file;
mod file_collector;
mod hugging_face;
mod replicator;
mod source_client;
mod source_hosts;
mod transfer_pace;
mod uploads;
mod walk;

pub use blob_error::{BlobError, BlobReadError};
pub use blobs::BlobStore;
pub(crate) use fetch::SourceAccess;
pub(crate) use replicator::ArtifactReplicator;
pub(crate) use source_client::SourceClient;
pub use source_hosts::SourceHosts;
pub(crate) use uploads::Uploads;
pub use walk::{WalkError, walk};

/// The folder of the files of models in a controller's data directory.
pub(crate) const BLOBS_DIR: &str = "blobs";
