//! Reads all entries under a prefix, in pages of one revision.

use etcd_client::{GetOptions, GetResponse};

use super::members::TIMEOUT;
use super::{EtcdStore, MAX_MESSAGE, entry, failure};
use crate::store::{StoreEntry, StoreError};

/// The largest number of keys in a page.
const MAX_PAGE_KEYS: i64 = 512;
/// A page that does not fit into [`MAX_MESSAGE`] is asked for again with this fraction of its keys.
const PAGE_DIVISOR: i64 = 4;
/// How often reading starts anew because etcd has compacted the revision of the earlier pages.
const MAX_RESTARTS: u32 = 3;

/// What came back for a page.
enum Page {
    Entries(GetResponse),
    /// The page has more bytes than a message may have.
    TooLarge,
    /// The revision was compacted since the first page.
    Compacted,
}

/// Returns the entries whose keys start with `prefix`, in the order of their keys, and the revision
/// of the store they are from.
pub(super) async fn read(
    store: &EtcdStore,
    prefix: &str,
) -> Result<(Vec<StoreEntry>, i64), StoreError> {
    for _ in 0..MAX_RESTARTS {
        if let Some(snapshot) = read_at_one_revision(store, prefix).await? {
            return Ok(snapshot);
        }
    }
    Err(StoreError::Etcd(
        "its history is compacted faster than it can be read".into(),
    ))
}

/// Returns `None` if the revision was compacted between two pages.
async fn read_at_one_revision(
    store: &EtcdStore,
    prefix: &str,
) -> Result<Option<(Vec<StoreEntry>, i64)>, StoreError> {
    let end = prefix_end(prefix);
    let mut entries = Vec::new();
    let mut page_keys = MAX_PAGE_KEYS;
    // 0: the newest.
    let mut revision = 0;
    let mut start = prefix.as_bytes().to_vec();
    loop {
        let options = GetOptions::new()
            .with_range(end.clone())
            .with_limit(page_keys)
            .with_revision(revision);
        let mut reply = match read_page(store, start.clone(), options).await? {
            Page::Entries(reply) => reply,
            Page::Compacted => return Ok(None),
            Page::TooLarge if page_keys > 1 => {
                page_keys = (page_keys / PAGE_DIVISOR).max(1);
                continue;
            }
            Page::TooLarge => {
                return Err(StoreError::Etcd(format!(
                    "the value of the first key from '{}' on has more than {} MiB",
                    String::from_utf8_lossy(&start),
                    MAX_MESSAGE >> 20
                )));
            }
        };
        if revision == 0 {
            revision = reply.header().map_or(0, |header| header.revision());
        }
        let more = reply.more();
        for pair in reply.take_kvs() {
            entries.push(entry(pair)?);
        }
        match entries.last() {
            Some(last) if more => {
                start = last.key.as_bytes().to_vec();
                // The smallest key after the last one.
                start.push(0);
            }
            _ => return Ok(Some((entries, revision))),
        }
    }
}

async fn read_page(
    store: &EtcdStore,
    start: Vec<u8>,
    options: GetOptions,
) -> Result<Page, StoreError> {
    let read = |client: etcd_client::Client| async move {
        let mut client = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
        match client.get(start, Some(options)).await {
            Ok(reply) => Ok(Page::Entries(reply)),
            Err(error) if failure::is_message_too_large(&error) => Ok(Page::TooLarge),
            Err(error) if failure::is_compacted(&error) => Ok(Page::Compacted),
            Err(error) => Err(error),
        }
    };
    store.members.call(TIMEOUT, read).await
}

/// The first key after all keys that start with `prefix`, as etcd writes the end of a range.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // All keys.
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_a_prefix_is_the_first_key_after_it() {
        assert_eq!(prefix_end("/a/"), b"/a0");
        assert_eq!(prefix_end(""), [0]);
    }
}
