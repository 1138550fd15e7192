//! A record that a process goes on with after a restart.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A record that is kept in a JSON file and changes with the time. It is stored when it has changed in
/// what matters, else once in an interval: a restart loses at most that much of it.
#[derive(Debug)]
pub struct StoredRecord<T> {
    path: PathBuf,
    interval: Duration,
    record: T,
    has_changed: bool,
    updated: Instant,
    stored: Instant,
}

impl<T: Default + Serialize + DeserializeOwned> StoredRecord<T> {
    /// Reads the record from the file at `path`. A file that is missing or cannot be read counts as the
    /// default. Blocks.
    #[must_use]
    pub fn load(path: PathBuf, interval: Duration) -> Self {
        let stored = std::fs::read(&path).unwrap_or_default();
        let now = Instant::now();
        Self {
            record: serde_json::from_slice(&stored).unwrap_or_default(),
            path,
            interval,
            has_changed: false,
            updated: now,
            stored: now,
        }
    }

    /// The record.
    #[must_use]
    pub fn get(&self) -> &T {
        &self.record
    }

    /// Updates the record. `update` receives the time since the last update, and returns whether the
    /// record has changed in what matters.
    pub fn update(&mut self, update: impl FnOnce(&mut T, Duration) -> bool) {
        let now = Instant::now();
        let elapsed = now.duration_since(self.updated);
        self.updated = now;
        self.has_changed |= update(&mut self.record, elapsed);
    }

    /// Stores the record, if it has changed in what matters or was stored an interval ago. Blocks.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn store(&mut self) -> io::Result<()> {
        if self.has_changed || self.stored.elapsed() >= self.interval {
            crate::replace(&self.path, &serde_json::to_vec(&self.record)?)?;
            self.has_changed = false;
            self.stored = Instant::now();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn record_is_stored_when_it_has_changed_or_the_interval_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        let load = |interval| StoredRecord::<u32>::load(path.clone(), interval);
        let mut record = load(HOUR);
        record.update(|value, _| {
            *value = 1;
            false
        });
        record.store().unwrap();
        assert_eq!((*record.get(), *load(HOUR).get()), (1, 0));
        record.update(|_, _| true);
        // The next update does not make the change forgotten.
        record.update(|_, _| false);
        record.store().unwrap();
        assert_eq!(*load(HOUR).get(), 1);
        let mut record = load(Duration::ZERO);
        record.update(|value, _| {
            *value = 2;
            false
        });
        record.store().unwrap();
        assert_eq!(*load(HOUR).get(), 2);
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(*load(HOUR).get(), 0);
    }

    #[test]
    fn each_update_receives_the_time_since_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let mut record = StoredRecord::<Duration>::load(dir.path().join("r.json"), HOUR);
        for _ in 0..3 {
            record.update(|total, elapsed| {
                *total += elapsed;
                false
            });
        }
        assert!(*record.get() <= began.elapsed());
        assert_eq!(*record.get(), record.updated.duration_since(record.stored));
    }
}
