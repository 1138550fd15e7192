//! Fetches one file from any controller that has it, resuming where an earlier fetch stopped.

use std::io;
use std::path::Path;
use std::time::Duration;

use flotilla_core::artifact::ArtifactFile;
use flotilla_proto::v1::FetchBlobRequest;
use tokio::fs;
use tokio::time::timeout;
use tonic::Code;

use super::partial_file::{PartialFile, blocking};
use super::{ArtifactError, ArtifactStore};

/// Pause between two rounds over all controllers.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How long a controller may take to begin to send a file before the next one is asked.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a controller may pause while it sends a file before the next one is asked. Its disk may hang.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of rounds in which no controller has the file before the fetch fails. A controller may
/// still be copying it from another one.
const MAX_NOT_FOUND_ROUNDS: u32 = 10;
/// Number of times that a file is fetched before a wrong digest makes the fetch fail. The first wrong one
/// may come from a part that was on the disk.
const MAX_ATTEMPTS: u32 = 2;

/// Fetches a file and verifies it, unless the store has it. `progress` receives the number of bytes on
/// disk. While another task fetches the same file, this one waits for it.
///
/// Waits as long as no controller is linked. Fails if all linked controllers keep reporting that they
/// do not have the file, on an I/O error, and on a wrong digest.
pub(super) async fn fetch_file(
    store: &ArtifactStore,
    file: &ArtifactFile,
    progress: impl Fn(u64),
) -> Result<(), ArtifactError> {
    let (blob_path, partial_path) = (
        store.blob_path(file.sha256),
        store.partial_path(file.sha256),
    );
    let io_error = |error: io::Error| ArtifactError::from_io(file, &error);
    for _ in 0..MAX_ATTEMPTS {
        let lock = store.locks().lock(file.sha256).await;
        let (checked_store, checked_file) = (store.clone(), file.clone());
        let is_there = blocking(move || checked_store.has_blob(&checked_file)).await;
        if is_there.map_err(io_error)? {
            return Ok(());
        }
        for folder in [blob_path.parent(), partial_path.parent()] {
            let folder = folder.unwrap_or(Path::new("/"));
            fs::create_dir_all(folder).await.map_err(io_error)?;
        }
        let partial = PartialFile::open(partial_path.clone(), file.size.0, lock)
            .await
            .map_err(io_error)?;
        if partial.size() > 0 {
            tracing::info!(
                file = file.path,
                offset = partial.size(),
                "resuming a fetch"
            );
        }
        let fetched = match download(store, file, partial, &progress).await {
            Ok(partial) => partial
                .finish(file, blob_path.clone())
                .await
                .map_err(io_error),
            Err(error) => Err(error),
        };
        match fetched {
            Ok(true) => {
                store.set_read(file.sha256);
                return Ok(());
            }
            Ok(false) => {
                tracing::warn!(file = file.path, "a file has arrived with a wrong SHA-256")
            }
            Err(error) => return Err(error),
        }
    }
    Err(ArtifactError::DigestMismatch(file.path.clone()))
}

/// Downloads the missing rest of a file, in rounds over all linked controllers in random order.
async fn download(
    store: &ArtifactStore,
    file: &ArtifactFile,
    mut partial: PartialFile,
    progress: &impl Fn(u64),
) -> Result<PartialFile, ArtifactError> {
    let mut not_found_rounds = 0;
    while partial.size() < file.size.0 {
        let mut new_links = store.sources().new_links();
        let mut clients = store.sources().clients();
        fastrand::shuffle(&mut clients);
        let mut not_found = !clients.is_empty();
        for mut client in clients {
            let request = FetchBlobRequest {
                sha256: file.sha256.to_string(),
                offset: partial.size(),
            };
            let mut chunks = match timeout(BEGIN_TIMEOUT, client.fetch_blob(request)).await {
                Ok(Ok(response)) => response.into_inner(),
                Err(_) => {
                    tracing::warn!(
                        file = file.path,
                        "a controller does not begin to send a file"
                    );
                    not_found = false;
                    continue;
                }
                Ok(Err(status)) => {
                    not_found &= status.code() == Code::NotFound;
                    continue;
                }
            };
            not_found = false;
            // When the stream breaks off or pauses for long, the next controller continues from there.
            while let Ok(Ok(Some(chunk))) = timeout(SILENCE_TIMEOUT, chunks.message()).await {
                if let Some(limiter) = store.rate_limiter() {
                    limiter.wait(chunk.data.len()).await;
                }
                // More than the file has makes it wrong, and is not written without end.
                let is_too_long = partial.size() + chunk.data.len() as u64 > file.size.0;
                partial = partial
                    .append(chunk.data)
                    .await
                    .map_err(|error| ArtifactError::from_io(file, &error))?;
                progress(partial.size().min(file.size.0));
                if is_too_long {
                    break;
                }
            }
            if partial.size() >= file.size.0 {
                return Ok(partial);
            }
        }
        not_found_rounds += u32::from(not_found);
        if not_found_rounds >= MAX_NOT_FOUND_ROUNDS {
            return Err(ArtifactError::NotOnControllers(file.path.clone()));
        }
        // A new link ends the pause early.
        let _ = timeout(RETRY_DELAY, new_links.changed()).await;
    }
    Ok(partial)
}
