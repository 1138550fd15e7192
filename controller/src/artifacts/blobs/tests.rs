use super::*;
use futures::{TryStreamExt, stream};

fn bytes(text: &'static str) -> impl Stream<Item = Result<Bytes, String>> {
    stream::iter([Ok(Bytes::from_static(text.as_bytes()))])
}

#[tokio::test]
async fn stored_files_are_read_from_any_offset() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = BlobStore::new(dir.path().join("blobs"));
    let (digest, size) = blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
    assert_eq!(size, 5);
    assert!(blobs.has(digest, 5) && !blobs.has(digest, 4));
    let read = blobs.read(digest, 2).await.unwrap().expect("it is there");
    let read: Vec<Bytes> = read.try_collect().await.unwrap();
    assert_eq!(read.concat(), b"llo");
    assert!(
        blobs
            .read(Sha256Digest([0; 32]), 0)
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn wrong_and_interrupted_uploads_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = BlobStore::new(dir.path().to_owned());
    let wrong = blobs
        .put(Some(Sha256Digest([0; 32])), bytes("hello"), |_| {})
        .await;
    assert!(matches!(wrong, Err(BlobError::Digest { .. })));
    let interrupted = stream::iter([Ok(Bytes::from_static(b"he")), Err("cut".to_owned())]);
    let interrupted = blobs.put(None, interrupted, |_| {}).await;
    assert!(matches!(interrupted, Err(BlobError::Source(_))));
    let remaining = std::fs::read_dir(dir.path().join("incoming")).unwrap();
    assert_eq!(remaining.count(), 0);
}

#[tokio::test]
async fn damaged_file_counts_as_missing_once_somebody_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = BlobStore::new(dir.path().to_owned());
    let (digest, _) = blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
    // Flipped bits: found at the end of a complete read.
    std::fs::write(blobs.path(digest), "hellO").unwrap();
    let read = blobs.read(digest, 0).await.unwrap().unwrap();
    let read: Result<Vec<_>, _> = read.try_collect().await;
    assert!(matches!(read, Err(BlobReadError::Damaged)));
    assert!(!blobs.has(digest, 5) && !blobs.path(digest).exists());
    // Truncated: found when a reader resumes where the file ends by now.
    blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
    std::fs::write(blobs.path(digest), "hel").unwrap();
    assert!(blobs.read(digest, 3).await.unwrap().is_none());
    assert!(!blobs.has(digest, 5));
    // Before a push relies on it.
    blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
    assert_eq!(blobs.verified_size(digest).await.unwrap(), Some(5));
    std::fs::write(blobs.path(digest), "hell").unwrap();
    assert_eq!(blobs.verified_size(digest).await.unwrap(), None);
    // In the background, after a restart.
    blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
    std::fs::write(blobs.path(digest), "hellO").unwrap();
    let restarted = BlobStore::new(dir.path().to_owned());
    restarted.rescan().await.unwrap();
    assert!(restarted.has(digest, 5));
    assert!(restarted.scrub_next().await.unwrap());
    assert!(!restarted.has(digest, 5));
    assert!(!restarted.scrub_next().await.unwrap());
}

#[tokio::test]
async fn file_that_has_replaced_a_damaged_one_is_not_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = BlobStore::new(dir.path().to_owned());
    let (digest, _) = blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
    std::fs::write(blobs.path(digest), "hellO").unwrap();
    let mut read = std::pin::pin!(blobs.read(digest, 0).await.unwrap().unwrap());
    assert!(read.next().await.unwrap().is_ok());
    // It is stored anew before the reader reaches the end of the damaged one.
    blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
    assert!(matches!(
        read.next().await,
        Some(Err(BlobReadError::Damaged))
    ));
    assert!(blobs.has(digest, 5));
    assert_eq!(std::fs::read(blobs.path(digest)).unwrap(), b"hello");
}

#[tokio::test]
async fn file_that_a_push_relies_on_is_kept_like_a_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = BlobStore::new(dir.path().to_owned());
    let (digest, _) = blobs.put(None, bytes("hello"), |_| {}).await.unwrap();
    let file = std::fs::File::open(blobs.path(digest)).unwrap();
    file.set_modified(SystemTime::now() - GRACE * 2).unwrap();
    assert_eq!(blobs.verified_size(digest).await.unwrap(), Some(5));
    let path = blobs.path(digest);
    blobs.remove_old(&path, Some(digest)).unwrap();
    assert!(path.exists());
}

#[tokio::test]
async fn content_that_is_too_large_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = BlobStore::new(dir.path().to_owned());
    let large = blobs.put_at_most(4, None, bytes("hello"), |_| {}).await;
    assert!(matches!(large, Err(BlobError::TooLarge(max)) if max.0 == 4));
    let remaining = std::fs::read_dir(dir.path().join("incoming")).unwrap();
    assert_eq!(remaining.count(), 0);
}
