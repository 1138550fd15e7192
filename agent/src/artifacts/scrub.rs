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
/// Time between looks for files to read.
const PAUSE: Duration = Duration::from_secs(5);

/// Reads each file that a model needs once after the start and then once a day, until `stop` is cancelled.
pub(super) async fn run(store: ArtifactStore, stop: CancellationToken) {
    let mut period = tokio::time::interval(PERIOD);
    period.tick().await;
    loop {
        while let Some(file) = store.next_unread() {
            match read(&store, &file, &stop).await {
                Ok(Some(true)) => store.set_read(file.sha256),
                Ok(Some(false)) => store.drop_damaged(&file).await,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(file = file.path, %error, "a file of a model cannot be read");
                    store.drop_damaged(&file).await;
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = period.tick() => store.forget_read(),
            () = tokio::time::sleep(PAUSE) => {}
        }
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
