//! Which files are known to have the content of their digest.
//!
//! A file whose content was verified gets a modification time that is made of its digest. Whoever writes to
//! it later changes the time, so that a start needs to look at sizes and times alone and reads only the
//! files that do not match. A disk that damages a file changes no time: that is found by reading all files
//! in the background ([`Scrub`](super::scrub)).

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, SystemTime};

use flotilla_core::artifact::ArtifactFile;
use flotilla_core::spec::Sha256Digest;
use sha2::{Digest, Sha256};

/// Number of bytes read at a time.
const READ_SIZE: usize = 256 << 10;
/// The earliest time of the marks, 2000-01-01, in seconds since 1970.
const FIRST_TIME: u64 = 946_684_800;

/// The modification time of a verified file: one of the years from 2000 to 2016. It is even, since some
/// file systems count in steps of two seconds.
fn mark_time(digest: Sha256Digest) -> SystemTime {
    let [a, b, c, d, ..] = digest.0;
    let seconds = u64::from(u32::from_be_bytes([a, b, c, d]) >> 3) & !1;
    SystemTime::UNIX_EPOCH + Duration::from_secs(FIRST_TIME + seconds)
}

/// Marks a file as verified, durably.
pub(super) fn mark(path: &Path, digest: Sha256Digest) -> io::Result<()> {
    let file = File::options().append(true).open(path)?;
    file.set_modified(mark_time(digest))?;
    file.sync_all()
}

/// Returns whether a file was verified and has not been written since.
pub(super) fn is_marked(metadata: &Metadata, file: &ArtifactFile) -> bool {
    let is_marked = metadata
        .modified()
        .is_ok_and(|time| time == mark_time(file.sha256));
    is_marked && metadata.len() == file.size.0
}

/// Reads a file and returns whether it has the size and the digest.
pub(super) fn has_content(path: &Path, file: &ArtifactFile) -> io::Result<bool> {
    has_content_paced(path, file, |_| true).map(|content| content == Some(true))
}

/// Reads a file as [`has_content`] does. `pace` is called with the size of each piece before the next one
/// is read, and ends the reading with `None` as the result by returning `false`.
pub(super) fn has_content_paced(
    path: &Path,
    expected: &ArtifactFile,
    mut pace: impl FnMut(usize) -> bool,
) -> io::Result<Option<bool>> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != expected.size.0 {
        return Ok(Some(false));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        if !pace(read) {
            return Ok(None);
        }
    }
    let digest: [u8; 32] = hash.finalize().into();
    Ok(Some(digest == expected.sha256.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::Bytes;

    #[test]
    fn a_marked_file_that_is_written_to_is_no_longer_marked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "hello").unwrap();
        let file = ArtifactFile {
            path: "x".into(),
            size: Bytes(5),
            sha256: Sha256Digest(Sha256::digest(b"hello").into()),
        };
        let marked = || is_marked(&path.metadata().unwrap(), &file);
        assert!(!marked() && has_content(&path, &file).unwrap());
        mark(&path, file.sha256).unwrap();
        assert!(marked());
        std::fs::write(&path, "jello").unwrap();
        assert!(!marked() && !has_content(&path, &file).unwrap());
        mark(&path, file.sha256).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(4)
            .unwrap();
        assert!(!marked());
    }
}
