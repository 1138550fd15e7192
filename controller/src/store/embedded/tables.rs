//! The tables of the embedded store, and the transactions on them.

use std::path::PathBuf;

use flotilla_durable::is_full;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::store::{
    LeaseId, Precondition, StoreChange, StoreEntry, StoreError, StoreRevision, StoreWrite,
};

/// Maps a key to the revision of its last write and its value.
const ENTRIES: TableDefinition<&str, (u64, &[u8])> = TableDefinition::new("entries");
/// Holds one row, [`REVISION`].
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// The row with the revision of the last write.
const REVISION: &str = "revision";
/// Maps the keys that are bound to a lease to its id. They do not outlive the process.
const LEASED: TableDefinition<&str, i64> = TableDefinition::new("leased");

/// Converts an error of redb. The path of a full disk is filled in by the caller.
pub(super) fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) if is_full(&error) => StoreError::DiskFull(PathBuf::new()),
        other => StoreError::Failed(other.to_string()),
    }
}

/// Returns whether all tables are there.
pub(super) fn exist(database: &Database) -> Result<bool, redb::Error> {
    let read = database.begin_read()?;
    let tables = [
        read.open_table(ENTRIES).map(drop),
        read.open_table(META).map(drop),
        read.open_table(LEASED).map(drop),
    ];
    for table in tables {
        match table {
            Ok(()) => {}
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Creates the tables that are not there.
pub(super) fn create(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(ENTRIES)?;
    transaction.open_table(META)?;
    transaction.open_table(LEASED)?;
    transaction.commit()?;
    Ok(())
}

/// Returns the entries whose keys start with `prefix`.
pub(super) fn list(database: &Database, prefix: &str) -> Result<Vec<StoreEntry>, StoreError> {
    let read = database.begin_read().map_err(failed)?;
    let table = read.open_table(ENTRIES).map_err(failed)?;
    let mut entries = Vec::new();
    for row in table.range(prefix..).map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        if !key.value().starts_with(prefix) {
            break;
        }
        let (revision, value) = value.value();
        entries.push(StoreEntry {
            key: key.value().to_owned(),
            value: value.to_owned(),
            revision: StoreRevision(revision),
        });
    }
    Ok(entries)
}

/// Returns the entry with exactly this key.
pub(super) fn get(database: &Database, key: String) -> Result<Option<StoreEntry>, StoreError> {
    let read = database.begin_read().map_err(failed)?;
    let table = read.open_table(ENTRIES).map_err(failed)?;
    let row = table.get(key.as_str()).map_err(failed)?;
    Ok(row.map(|row| {
        let (revision, value) = row.value();
        StoreEntry {
            value: value.to_owned(),
            revision: StoreRevision(revision),
            key,
        }
    }))
}

/// Returns the revision of the last write.
pub(super) fn revision(database: &Database) -> Result<StoreRevision, StoreError> {
    let read = database.begin_read().map_err(failed)?;
    let meta = read.open_table(META).map_err(failed)?;
    let row = meta.get(REVISION).map_err(failed)?;
    Ok(StoreRevision(row.map_or(0, |row| row.value())))
}

/// Writes in one transaction. Returns its revision and what it has changed.
pub(super) fn commit(
    database: &Database,
    writes: Vec<StoreWrite>,
) -> Result<(StoreRevision, Vec<StoreChange>), StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    let mut changes = Vec::with_capacity(writes.len());
    let revision;
    {
        let mut entries = transaction.open_table(ENTRIES).map_err(failed)?;
        let mut leased = transaction.open_table(LEASED).map_err(failed)?;
        let mut meta = transaction.open_table(META).map_err(failed)?;
        let last = meta
            .get(REVISION)
            .map_err(failed)?
            .map_or(0, |row| row.value());
        revision = StoreRevision(last + 1);
        meta.insert(REVISION, revision.0).map_err(failed)?;
        for write in writes {
            match write {
                StoreWrite::Put {
                    key,
                    value,
                    precondition,
                    lease,
                } => {
                    check(&entries, &key, precondition)?;
                    entries
                        .insert(key.as_str(), (revision.0, value.as_slice()))
                        .map_err(failed)?;
                    match lease {
                        Some(lease) => leased.insert(key.as_str(), lease),
                        None => leased.remove(key.as_str()),
                    }
                    .map_err(failed)?;
                    changes.push(StoreChange::Put(StoreEntry {
                        key,
                        value,
                        revision,
                    }));
                }
                StoreWrite::Delete { key } => {
                    leased.remove(key.as_str()).map_err(failed)?;
                    if entries.remove(key.as_str()).map_err(failed)?.is_some() {
                        changes.push(StoreChange::Delete { key, revision });
                    }
                }
                StoreWrite::Require { key, precondition } => check(&entries, &key, precondition)?,
            }
        }
    }
    transaction.commit().map_err(failed)?;
    Ok((revision, changes))
}

/// Returns the keys that are bound to a lease, or to any lease for `None`.
pub(super) fn leased_keys(
    database: &Database,
    lease: Option<LeaseId>,
) -> Result<Vec<String>, StoreError> {
    let read = database.begin_read().map_err(failed)?;
    let leased = read.open_table(LEASED).map_err(failed)?;
    let mut keys = Vec::new();
    for row in leased.iter().map_err(failed)? {
        let (key, key_lease) = row.map_err(failed)?;
        if lease.is_none_or(|lease| lease == key_lease.value()) {
            keys.push(key.value().to_owned());
        }
    }
    Ok(keys)
}

/// Fails with a conflict unless the precondition holds.
fn check(
    entries: &impl ReadableTable<&'static str, (u64, &'static [u8])>,
    key: &str,
    precondition: Precondition,
) -> Result<(), StoreError> {
    let row = entries.get(key).map_err(failed)?;
    let current = row.map(|row| row.value().0);
    let holds = match precondition {
        Precondition::Any => true,
        Precondition::Absent => current.is_none(),
        Precondition::Revision(required) => current == Some(required.0),
    };
    holds
        .then_some(())
        .ok_or_else(|| StoreError::Conflict(key.to_owned()))
}
