//! Splits writes into transactions that etcd accepts.

use super::{MAX_WRITES, StoreError, StoreWrite, check_limits};

/// The largest sum of keys and values in one transaction of
/// [`write_all`](super::Store::write_all), in bytes.
///
/// etcd refuses requests above 1.5 MiB (its default for `--max-request-bytes`). The difference is
/// for framing and for the keys, which a request repeats for each precondition.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;

/// Splits writes into chunks of at most [`MAX_WRITES`] writes and [`MAX_CHUNK_BYTES`] bytes, in
/// order, each starting with the fence. A write above the limit of bytes gets a chunk of its own. A
/// requirement is in the chunk of the write that follows it.
pub(super) fn split(fence: Option<&StoreWrite>, writes: Vec<StoreWrite>) -> Vec<Vec<StoreWrite>> {
    let fence_bytes = fence.map_or(0, size);
    let mut chunks: Vec<Vec<StoreWrite>> = Vec::new();
    let mut bytes = 0;
    let mut writes = writes.into_iter();
    while let Some(first) = writes.next() {
        let mut group = vec![first];
        while let Some(StoreWrite::Require { .. }) = group.last()
            && let Some(next) = writes.next()
        {
            group.push(next);
        }
        let group_bytes: usize = group.iter().map(size).sum();
        let has_room = |chunk: &Vec<StoreWrite>| {
            chunk.len() + group.len() <= MAX_WRITES && bytes + group_bytes <= MAX_CHUNK_BYTES
        };
        match chunks.last_mut() {
            Some(chunk) if has_room(chunk) => {
                bytes += group_bytes;
                chunk.append(&mut group);
            }
            _ => {
                bytes = fence_bytes + group_bytes;
                group.splice(0..0, fence.cloned());
                chunks.push(group);
            }
        }
    }
    chunks
}

/// Returns the writes that the store takes, and the error for the first one that is too large for it.
pub(super) fn separate_too_large(writes: Vec<StoreWrite>) -> (Vec<StoreWrite>, Option<StoreError>) {
    let mut too_large = None;
    let taken =
        writes
            .into_iter()
            .filter(|write| match check_limits(std::slice::from_ref(write)) {
                Ok(()) => true,
                Err(error) => {
                    too_large.get_or_insert(error);
                    false
                }
            });
    (taken.collect(), too_large)
}

/// The size of a write's key and value, in bytes.
fn size(write: &StoreWrite) -> usize {
    match write {
        StoreWrite::Put { key, value, .. } => key.len() + value.len(),
        StoreWrite::Delete { key } | StoreWrite::Require { key, .. } => key.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MAX_VALUE_BYTES, Precondition};

    fn put(index: usize, bytes: usize) -> StoreWrite {
        StoreWrite::put(format!("/{index:07}"), vec![0; bytes - 8])
    }

    fn fence() -> StoreWrite {
        StoreWrite::Require {
            key: "/leader!".into(),
            precondition: Precondition::Any,
        }
    }

    fn lengths(chunks: &[Vec<StoreWrite>]) -> Vec<usize> {
        chunks.iter().map(Vec::len).collect()
    }

    #[test]
    fn no_writes_need_no_transaction() {
        assert!(split(Some(&fence()), Vec::new()).is_empty());
    }

    #[test]
    fn chunks_hold_at_most_the_number_of_writes_of_one_transaction() {
        let writes: Vec<_> = (0..2 * MAX_WRITES + 1).map(|i| put(i, 8)).collect();
        let chunks = split(None, writes.clone());
        assert_eq!(lengths(&chunks), [MAX_WRITES, MAX_WRITES, 1]);
        assert_eq!(chunks.concat(), writes);
    }

    #[test]
    fn the_fence_counts_and_starts_every_chunk() {
        let chunks = split(Some(&fence()), (0..MAX_WRITES).map(|i| put(i, 8)).collect());
        assert_eq!(lengths(&chunks), [MAX_WRITES, 2]);
        assert!(chunks.iter().all(|chunk| chunk[0] == fence()));
    }

    #[test]
    fn requirement_stays_with_the_write_that_follows_it() {
        let marks = (0..MAX_WRITES).flat_map(|i| [fence(), put(i, 8)]);
        let chunks = split(Some(&fence()), marks.collect());
        for chunk in chunks {
            assert!(chunk.len() <= MAX_WRITES);
            assert!(matches!(chunk.last(), Some(StoreWrite::Put { .. })));
        }
    }

    #[test]
    fn chunks_hold_at_most_the_bytes_of_one_transaction() {
        let third = MAX_CHUNK_BYTES / 3;
        let chunks = split(None, (0..7).map(|i| put(i, third)).collect());
        assert_eq!(lengths(&chunks), [3, 3, 1]);
        let chunks = split(Some(&fence()), (0..4).map(|i| put(i, third)).collect());
        assert_eq!(
            lengths(&chunks),
            [3, 3],
            "the fence takes the remaining bytes"
        );
    }

    #[test]
    fn value_that_is_too_large_is_reported_and_the_others_are_kept() {
        let writes = vec![put(0, 8), put(1, MAX_VALUE_BYTES + 9), put(2, 8)];
        let (taken, error) = separate_too_large(writes);
        assert_eq!(taken, [put(0, 8), put(2, 8)]);
        assert!(
            matches!(&error, Some(StoreError::TooLarge { key, .. }) if key == "/0000001"),
            "{error:?}"
        );
    }

    #[test]
    fn a_write_above_the_limit_of_bytes_gets_a_chunk_of_its_own() {
        let writes = vec![put(0, 8), put(1, 2 * MAX_CHUNK_BYTES), put(2, 8), put(3, 8)];
        assert_eq!(lengths(&split(None, writes)), [1, 1, 2]);
    }
}
