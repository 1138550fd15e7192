//! Removes files that no model has needed for a while, or earlier where their space is needed.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flotilla_core::artifact::Manifest;
use flotilla_core::retention::{UnneededEntry, UnneededTimes};
use flotilla_core::spec::Sha256Digest;
use flotilla_durable::StoredRecord;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::blob_index;
use super::blobs::{BlobStore, blocking, is_old};

/// For how long a file is kept after it was needed last: the store may have been put back to an earlier
/// state, and nobody else may have the file.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The file with the times for which files have not been needed.
const TIMES_FILE: &str = "unneeded.json";

/// The state of the store by which files are not needed. In another one, they may be again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct StoreState {
    pub(super) fleet_id: Option<String>,
    pub(super) epoch: u64,
    /// How often the store was put back to an earlier state since this process runs.
    #[serde(skip)]
    pub(super) put_back: u64,
}

/// The files that are kept.
#[derive(Debug, Clone)]
pub(super) struct NeededFiles {
    pub(super) store: StoreState,
    pub(super) manifests: Vec<Arc<Manifest>>,
    /// When the oldest running fetch began. No manifest names its files yet.
    pub(super) fetching_since: Option<SystemTime>,
}

/// Knows which files are needed, and for how long the others have not been.
#[derive(Debug, Default)]
pub(super) struct FileCollector {
    /// `None` while it is not known.
    needed: Mutex<Option<NeededFiles>>,
    /// `None` before the first collection.
    times: Mutex<Option<StoredRecord<TimesRecord>>>,
}

/// The content of the file with the times.
#[derive(Debug, Default, Serialize, Deserialize)]
struct TimesRecord {
    #[serde(flatten)]
    store: StoreState,
    times: UnneededTimes,
}

/// A file on the disk that no model needs.
struct UnneededFile {
    /// `None` for what is left of a transfer, or was put aside.
    sha256: Option<Sha256Digest>,
    path: PathBuf,
    entry: UnneededEntry,
    /// Whether it may be removed now.
    is_removable: bool,
}

impl TimesRecord {
    /// Adds `elapsed` to the time of each file that is still not needed. All times begin anew if the store is
    /// not in the state of before. Returns whether the files or the state differ from before.
    fn advance(
        &mut self,
        store: StoreState,
        unneeded: &[UnneededEntry],
        elapsed: Duration,
    ) -> bool {
        let is_other_state = self.store != store;
        if is_other_state {
            self.store = store;
            self.times = UnneededTimes::default();
        }
        self.times.advance(unneeded, elapsed) || is_other_state
    }
}

impl BlobStore {
    /// Sets which files are kept. `None`: it is not known, so that none is removed.
    pub(super) fn set_needed(&self, needed: Option<NeededFiles>) {
        *self.collector.needed.lock() = needed;
    }

    /// Removes files that have not been needed for a week, and more of those that are not needed, the
    /// oldest first, until `needed_bytes` are freed, if that is possible. Files of the last hour stay: the
    /// manifest that names an uploaded file is published after it. Also removes what is left of interrupted
    /// transfers.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) async fn collect(&self, needed_bytes: u64) -> io::Result<()> {
        let store = self.clone();
        blocking(move || store.collect_blocking(needed_bytes)).await
    }

    fn collect_blocking(&self, needed_bytes: u64) -> io::Result<()> {
        // Locked before it is listed what is there, so that two collections do not remove the same files.
        let mut times = self.collector.times.lock();
        let Some(needed) = self.collector.needed.lock().clone() else {
            return Ok(());
        };
        // A file that cannot be read makes all files new ones, which are kept for longer.
        let load =
            || StoredRecord::load(self.dir().join(TIMES_FILE), UnneededTimes::STORE_INTERVAL);
        let times = times.get_or_insert_with(load);
        let files = self.unneeded_files(&needed)?;
        let (blobs, leftovers): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|file| file.sha256.is_some());
        for file in leftovers.iter().filter(|file| file.is_removable) {
            self.remove_old(&file.path, None)?;
        }
        let entries: Vec<_> = blobs.iter().map(|file| file.entry.clone()).collect();
        times.update(|times, elapsed| times.advance(needed.store, &entries, elapsed));
        let removable = blobs.iter().filter(|file| file.is_removable);
        let removable: Vec<_> = removable.map(|file| file.entry.clone()).collect();
        let expired = times
            .get()
            .times
            .expired(&removable, RETENTION, needed_bytes, 0);
        let expired: HashSet<&str> = expired.iter().map(|entry| entry.name.as_str()).collect();
        for file in &blobs {
            if expired.contains(file.entry.name.as_str()) {
                self.remove_old(&file.path, file.sha256)?;
            }
        }
        times.store()
    }

    /// Lists the files that no model needs.
    fn unneeded_files(&self, needed: &NeededFiles) -> io::Result<Vec<UnneededFile>> {
        let files = needed.manifests.iter().flat_map(|m| &m.files);
        let needed_digests: HashSet<Sha256Digest> = files.map(|file| file.sha256).collect();
        let mut unneeded = Vec::new();
        for file in blob_index::entries(self.dir())? {
            let name = file.file_name().to_string_lossy().into_owned();
            let sha256: Option<Sha256Digest> = name.parse().ok();
            if sha256.is_some_and(|sha256| needed_digests.contains(&sha256)) {
                continue;
            }
            let metadata = match file.metadata() {
                Ok(metadata) => metadata,
                // A transfer has just ended.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let modified = metadata.modified()?;
            let is_fetched = needed.fetching_since.is_some_and(|since| modified >= since);
            let bytes = metadata.len();
            unneeded.push(UnneededFile {
                sha256,
                path: file.path(),
                entry: UnneededEntry { name, bytes },
                is_removable: is_old(&metadata)? && !is_fetched,
            });
        }
        Ok(unneeded)
    }
}

#[cfg(test)]
mod tests {
    use super::super::blob_error::BlobError;
    use super::*;
    use bytes::Bytes;
    use flotilla_core::artifact::ArtifactFile;
    use futures::stream;

    /// A store with the files `needed`, `old`, `recent` and `new`, of which all but the last could be removed.
    struct TestBlobs {
        dir: tempfile::TempDir,
        digests: Vec<Sha256Digest>,
    }

    const NAMES: [&str; 4] = ["needed", "old", "recent", "new"];

    impl TestBlobs {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let blobs = BlobStore::new(dir.path().to_owned());
            let mut digests = Vec::new();
            for text in NAMES {
                let content = stream::iter([Ok(Bytes::from_static(text.as_bytes()))]);
                let (digest, _) = blobs.put(None, content, |_| {}).await.unwrap();
                if text != "new" {
                    let file = std::fs::File::open(blobs.path(digest)).unwrap();
                    let earlier = SystemTime::now() - Duration::from_secs(2 * 3_600);
                    file.set_modified(earlier).unwrap();
                }
                digests.push(digest);
            }
            Self { dir, digests }
        }

        fn needed(&self, store: StoreState) -> NeededFiles {
            let file = ArtifactFile {
                path: "f".into(),
                size: flotilla_core::Bytes(6),
                sha256: self.digests[0],
            };
            NeededFiles {
                store,
                manifests: vec![Arc::new(Manifest::new(vec![file]).unwrap())],
                fetching_since: None,
            }
        }

        /// A store in the folder, as after a restart.
        fn open(&self, store: StoreState) -> BlobStore {
            let blobs = BlobStore::new(self.dir.path().to_owned());
            blobs.set_needed(Some(self.needed(store)));
            blobs
        }

        /// The names of the files that are there.
        fn present(&self) -> Vec<&str> {
            let blobs = BlobStore::new(self.dir.path().to_owned());
            let files = NAMES.iter().zip(&self.digests);
            let present = files.filter(|(_, digest)| blobs.path(**digest).exists());
            present.map(|(name, _)| *name).collect()
        }
    }

    /// As if this much time had passed since the last collection.
    fn wait(blobs: &BlobStore, time: Duration) {
        let needed = blobs.collector.needed.lock().clone().unwrap();
        let files = blobs.unneeded_files(&needed).unwrap();
        let entries: Vec<_> = files.into_iter().map(|file| file.entry).collect();
        let mut times = blobs.collector.times.lock();
        let times = times.as_mut().unwrap();
        times.update(|times, _| times.times.advance(&entries, time));
    }

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    #[tokio::test]
    async fn unneeded_file_goes_after_a_week_which_restarts_do_not_begin_anew() {
        let test = TestBlobs::new().await;
        let blobs = test.open(StoreState::default());
        blobs.collect(0).await.unwrap();
        for _ in 0..2 {
            wait(&blobs, DAY);
            blobs.collect(0).await.unwrap();
        }
        // The times are stored with every change of the files.
        std::fs::remove_file(blobs.path(test.digests[2])).unwrap();
        blobs.collect(0).await.unwrap();
        let blobs = test.open(StoreState::default());
        blobs.collect(0).await.unwrap();
        wait(&blobs, 5 * DAY - Duration::from_secs(60));
        blobs.collect(0).await.unwrap();
        assert_eq!(test.present(), ["needed", "old", "new"]);
        wait(&blobs, Duration::from_secs(60));
        blobs.collect(0).await.unwrap();
        assert_eq!(test.present(), ["needed", "new"]);
    }

    #[tokio::test]
    async fn times_begin_anew_in_another_state_of_the_store() {
        let test = TestBlobs::new().await;
        let blobs = test.open(StoreState::default());
        blobs.collect(0).await.unwrap();
        wait(&blobs, 8 * DAY);
        let put_back = StoreState {
            put_back: 1,
            ..StoreState::default()
        };
        blobs.set_needed(Some(test.needed(put_back)));
        blobs.collect(0).await.unwrap();
        // The next controller process counts what is put back anew, but knows the epoch.
        let next_epoch = StoreState {
            epoch: 1,
            ..StoreState::default()
        };
        let blobs = test.open(next_epoch);
        blobs.collect(0).await.unwrap();
        assert_eq!(test.present(), NAMES);
        wait(&blobs, 8 * DAY);
        blobs.collect(0).await.unwrap();
        assert_eq!(test.present(), ["needed", "new"]);
    }

    #[tokio::test]
    async fn where_space_is_needed_the_oldest_goes_first_and_never_what_is_needed_or_arrives() {
        let test = TestBlobs::new().await;
        let recent = BlobStore::new(test.dir.path().to_owned()).path(test.digests[2]);
        let aside = test.dir.path().join("aside");
        std::fs::rename(&recent, &aside).unwrap();
        let blobs = test.open(StoreState::default());
        blobs.collect(0).await.unwrap();
        wait(&blobs, DAY);
        blobs.collect(0).await.unwrap();
        std::fs::rename(&aside, &recent).unwrap();
        blobs.collect(1).await.unwrap();
        assert_eq!(test.present(), ["needed", "recent", "new"]);
        // A fetch that has begun before it was stored may be what stored it.
        let mut needed = test.needed(StoreState::default());
        needed.fetching_since = Some(SystemTime::now() - DAY);
        blobs.set_needed(Some(needed));
        blobs.collect(6).await.unwrap();
        blobs.set_needed(None);
        blobs.collect(6).await.unwrap();
        assert_eq!(test.present(), ["needed", "recent", "new"]);
        blobs.set_needed(Some(test.needed(StoreState::default())));
        // Nothing goes where all together would be too few.
        blobs.collect(7).await.unwrap();
        let room = blobs.ensure_room(u64::MAX).await;
        assert!(matches!(room, Err(BlobError::DiskFull)), "{room:?}");
        assert_eq!(test.present(), ["needed", "recent", "new"]);
        blobs.collect(6).await.unwrap();
        assert_eq!(test.present(), ["needed", "new"]);
    }
}
