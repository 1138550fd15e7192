//! Model files on the controllers: fetched or uploaded once, stored under their digests, and served
//! to agents and other controllers.
//!
//! A [`Manifest`](flotilla_core::artifact::Manifest) in the store lists the files of a model, so that
//! all controllers agree on them; the files themselves are on the controllers' disks. The leader
//! fetches (`fetch.rs`), the other controllers copy (`replicator.rs`), and an agent reads a file from
//! any controller that has it.

mod blobs;
mod fetch;
mod replicator;
mod walk;

pub use blobs::{BlobError, BlobStore};
pub(crate) use replicator::ArtifactReplicator;
pub use walk::walk;
