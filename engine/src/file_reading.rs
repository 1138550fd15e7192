//! Reads the files of models off the async threads, and not for ever: they may lie on a drive that hangs.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::LoadError;

/// The most threads that read at once, of all models. A read that hangs keeps its thread.
const MAX_READS: usize = 16;
/// How long a read may take, with its wait for a thread. Usual ones take milliseconds.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Bounds how many files are read at once, and for how long.
pub struct FileReading {
    threads: Arc<Semaphore>,
    timeout: Duration,
    /// One permit for each path that is read: retries for a drive that hangs wait for the first read.
    paths: Mutex<HashMap<PathBuf, Weak<Semaphore>>>,
}

impl Default for FileReading {
    fn default() -> Self {
        Self::new(READ_TIMEOUT)
    }
}

impl FileReading {
    /// `timeout` bounds each read, with its wait for a thread.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            threads: Arc::new(Semaphore::new(MAX_READS)),
            timeout,
            paths: Mutex::default(),
        }
    }

    /// Runs `read`, which reads the files at `path`, where it may block. Nothing can stop it: when it takes longer
    /// than the timeout, it keeps its thread until its end.
    ///
    /// # Errors
    /// [`LoadError::SlowFiles`] after the timeout, and the errors of `read`.
    pub async fn run<T: Send + 'static>(
        &self,
        path: &Path,
        read: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
    ) -> Result<T, LoadError> {
        let deadline = Instant::now() + self.timeout;
        let too_slow = || LoadError::SlowFiles {
            path: path.to_owned(),
            seconds: self.timeout.as_secs(),
        };
        let turn = self.turn(path);
        let permits = async {
            let of_path = turn.clone().acquire_owned().await;
            (of_path, self.threads.clone().acquire_owned().await)
        };
        let permits = tokio::time::timeout_at(deadline, permits).await;
        let permits = permits.map_err(|_| too_slow())?;
        let reading = tokio::task::spawn_blocking(move || {
            let _permits = (permits, turn);
            read()
        });
        match tokio::time::timeout_at(deadline, reading).await {
            Ok(read) => read.map_err(|error| LoadError::Engine(error.to_string()))?,
            Err(_) => Err(too_slow()),
        }
    }

    /// The semaphore of a path, with one permit.
    fn turn(&self, path: &Path) -> Arc<Semaphore> {
        let mut paths = self.paths.lock();
        paths.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = paths.get(path).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Semaphore::new(1));
        paths.insert(path.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn read_that_hangs_holds_up_no_other_path_and_takes_one_thread() {
        let mut reading = FileReading {
            threads: Arc::new(Semaphore::new(2)),
            timeout: Duration::from_millis(20),
            paths: Mutex::default(),
        };
        let (release, released) = std::sync::mpsc::channel::<()>();
        let hangs = move || {
            // Ends when the test drops the sender.
            let _ = released.recv();
            Ok(())
        };
        let (slow, other) = (Path::new("/slow"), Path::new("/other"));
        let is_slow =
            |read: Result<(), LoadError>| matches!(read, Err(LoadError::SlowFiles { .. }));
        assert!(is_slow(reading.run(slow, hangs).await));
        assert!(
            is_slow(reading.run(slow, || Ok(())).await),
            "it still hangs"
        );
        assert_eq!(reading.threads.available_permits(), 1);
        reading.timeout = READ_TIMEOUT;
        assert_eq!(reading.run(other, || Ok(7)).await, Ok(7));
        drop(release);
        assert_eq!(reading.run(slow, || Ok(7)).await, Ok(7));
    }
}
