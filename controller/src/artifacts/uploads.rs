//! Limits of the uploads by clients: how many at once, and how large.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use flotilla_core::artifact::Manifest;
use flotilla_core::spec::Sha256Digest;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Number of files that clients may upload at the same time.
const MAX_UPLOADS: usize = 8;
/// Largest file that no manifest has announced, in bytes.
const MAX_UNANNOUNCED: u64 = 16 << 30;
/// Number of announced files that are remembered. Beyond it the earlier ones are forgotten, and count
/// as not announced.
const MAX_ANNOUNCED: usize = 100_000;

/// The running uploads, and the files that are expected. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Uploads {
    slots: Arc<Semaphore>,
    /// The sizes of the files that are to be uploaded.
    announced: Arc<Mutex<HashMap<Sha256Digest, u64>>>,
}

impl Uploads {
    pub(crate) fn new() -> Self {
        Self {
            slots: Arc::new(Semaphore::new(MAX_UPLOADS)),
            announced: Arc::default(),
        }
    }

    /// Notes the sizes of files of a manifest that are missing, and so will be uploaded.
    pub(crate) fn announce(&self, manifest: &Manifest, missing: &[Sha256Digest]) {
        let missing: HashSet<&Sha256Digest> = missing.iter().collect();
        let files = manifest.files.iter();
        let expected = files.filter(|file| missing.contains(&file.sha256));
        let expected: Vec<_> = expected.map(|file| (file.sha256, file.size.0)).collect();
        let mut announced = self.announced.lock();
        if announced.len() + expected.len() > MAX_ANNOUNCED {
            announced.clear();
        }
        announced.extend(expected);
    }

    /// Returns how large a file may be, in bytes.
    pub(crate) fn max_size(&self, sha256: Sha256Digest) -> u64 {
        let announced = self.announced.lock().get(&sha256).copied();
        announced.unwrap_or(MAX_UNANNOUNCED)
    }

    /// Begins an upload, which ends when the returned value is dropped. `None`: too many run already.
    pub(crate) fn begin(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::Bytes;
    use flotilla_core::artifact::ArtifactFile;

    #[test]
    fn uploads_at_once_and_their_sizes_are_limited() {
        let uploads = Uploads::new();
        let running: Vec<_> = (0..MAX_UPLOADS).map(|_| uploads.begin().unwrap()).collect();
        assert!(uploads.begin().is_none());
        drop(running);
        assert!(uploads.begin().is_some());
        let (missing, present) = (Sha256Digest([1; 32]), Sha256Digest([2; 32]));
        let file = |path: &str, sha256| ArtifactFile {
            path: path.into(),
            size: Bytes(7),
            sha256,
        };
        let files = vec![file("a", missing), file("b", present)];
        uploads.announce(&Manifest { files }, &[missing]);
        assert_eq!(uploads.max_size(missing), 7);
        assert_eq!(uploads.max_size(present), MAX_UNANNOUNCED);
    }
}
