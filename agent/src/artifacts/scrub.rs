//! Reads the files of models in the background and finds those that the disk has damaged.

use std::time::Duration;

use flotilla_core::artifact::ArtifactFile;
use tokio_util::sync::CancellationToken;

use super::ArtifactStore;
use super::partial_file::blocking;
use super::verification;

/// The bytes that are read per second, so that models load and serve undisturbed.
const BYTES_PER_SECOND: f64 = (64 << 20) as f64;
/// How often all files are read.
const PERIOD: Duration = Duration::from_secs(24 * 3_600);
/// Time until a file that could not be read is tried again.
const RETRY: Duration = Duration::from_secs(10 * 60);

/// Reads each file that a model needs once after the start and then once a day, until `stop` is cancelled.
pub(super) async fn run(store: ArtifactStore, stop: CancellationToken) {
    let mut period = tokio::time::interval(PERIOD);
    period.tick().await;
    let mut verified = store.verified_models();
    loop {
        verified.borrow_and_update();
        let mut has_failed = false;
        for file in store.unread_files().await {
            match check(&store, &file, &stop).await {
                Ok(Some(true)) => store.set_read(file.sha256),
                Ok(Some(false)) => store.drop_damaged(&file).await,
                Ok(None) => return,
                // The file may be fine: the node may have too many open files, or a cable is loose.
                Err(error) => {
                    tracing::warn!(file = file.path, %error, "a file of a model cannot be read: it is kept and tried again later; check the disk");
                    has_failed = true;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = period.tick() => store.forget_read(),
            _ = verified.changed() => {}
            () = tokio::time::sleep(RETRY), if has_failed => {}
        }
    }
}

/// Reads a file, and again if it seems damaged, since its reader may have been at fault.
pub(super) async fn check(
    store: &ArtifactStore,
    file: &ArtifactFile,
    stop: &CancellationToken,
) -> std::io::Result<Option<bool>> {
    match read(store, file, stop).await? {
        Some(false) => read(store, file, stop).await,
        content => Ok(content),
    }
}

/// Reads a file slowly. Returns whether it has its content, or nothing once `stop` is cancelled.
async fn read(
    store: &ArtifactStore,
    file: &ArtifactFile,
    stop: &CancellationToken,
) -> std::io::Result<Option<bool>> {
    let (path, file, stop) = (store.blob_path(file.sha256), file.clone(), stop.clone());
    blocking(move || {
        verification::has_content_paced(&path, &file, |bytes| {
            std::thread::sleep(Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND));
            !stop.is_cancelled()
        })
    })
    .await
}
