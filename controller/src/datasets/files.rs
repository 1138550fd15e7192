//! The files of datasets: one for each task, with one record a line.
//!
//! Records are appended. A file with too many of them is replaced by one with the newest. All functions
//! block.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use flotilla_core::TaskName;
use flotilla_core::dataset::{DatasetRecord, newest};
use flotilla_core::disk::DiskSpace;
use flotilla_core::spec::LearnSource;

/// The folder of the files in the data directory.
pub(crate) const DATASETS_DIR: &str = "datasets";
/// The extension of the files.
const EXTENSION: &str = "jsonl";
/// Largest file, in bytes.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// A file that becomes too large is replaced by one of at most this size, so that not every record
/// replaces it again.
const COMPACT_BYTES: usize = 48 << 20;
/// A file may have this part (one eighth) more records than the dataset keeps before it is replaced.
const SLACK: usize = 8;
/// The beginning of the names of files that are not complete, as [`flotilla_durable::replace`] creates them.
const PARTIAL_PREFIX: &str = ".tmp";

/// The files of the datasets in one folder.
#[derive(Debug)]
pub(crate) struct DatasetFiles {
    dir: PathBuf,
    /// The sizes of the files that were used.
    sizes: HashMap<TaskName, FileSize>,
    max_bytes: u64,
    /// Reads the space of the disk of a folder. `None`: it is not known.
    space_at: fn(&Path) -> Option<DiskSpace>,
}

/// The size of a file.
#[derive(Debug, Clone, Copy, Default)]
struct FileSize {
    lines: usize,
    bytes: u64,
    /// Whether the last line has no end, because a write was interrupted.
    is_torn: bool,
}

/// The number of records of a dataset, by source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DatasetCounts {
    pub(crate) escalations: usize,
    pub(crate) feedback: usize,
}

impl DatasetFiles {
    /// The files in `dir`, which is created with the first record.
    pub(crate) fn in_dir(dir: PathBuf) -> Self {
        Self {
            dir,
            sizes: HashMap::new(),
            max_bytes: MAX_FILE_BYTES,
            space_at: flotilla_durable::space_at,
        }
    }

    /// Removes what a write left behind that was interrupted by the end of the process: it has prompts that
    /// nobody could delete. Called before the first write.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn remove_partial(&self) -> io::Result<()> {
        for path in self.paths()? {
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.starts_with(PARTIAL_PREFIX)) {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Adds records to the dataset of a task, and drops the oldest where it has more than `keep` or is too
    /// large. The records are on the disk once this returns.
    ///
    /// # Errors
    /// Those of the disk, and when only the reserve of its space is left, which the store needs.
    pub(crate) fn append(
        &mut self,
        task: &TaskName,
        records: Vec<DatasetRecord>,
        keep: usize,
    ) -> io::Result<()> {
        let size = self.size(task)?;
        let lines = encode(&records);
        self.ensure_room(lines.len() as u64)?;
        let added = FileSize {
            lines: size.lines + records.len(),
            bytes: size.bytes + lines.len() as u64,
            is_torn: false,
        };
        let fits = added.lines <= keep + keep / SLACK && added.bytes <= self.max_bytes;
        if size.bytes == 0 || size.is_torn || !fits {
            let mut all = read_file(&self.path(task))?;
            all.extend(records);
            return self.replace(task, newest(all, keep));
        }
        // Until it has worked, nobody knows how much of it is in the file.
        self.sizes.remove(task);
        let mut file = File::options().append(true).open(self.path(task))?;
        file.write_all(&lines)?;
        file.sync_data()?;
        self.sizes.insert(task.clone(), added);
        Ok(())
    }

    /// Returns the records of a dataset, the oldest first; none if there is no dataset. With `keep`, only the
    /// newest `keep` records are returned.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn read(
        &self,
        task: &TaskName,
        keep: Option<usize>,
    ) -> io::Result<Vec<DatasetRecord>> {
        let records = read_file(&self.path(task))?;
        Ok(newest(records, keep.unwrap_or(usize::MAX)))
    }

    /// Returns the records of all datasets that can be examples of `task`.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn read_candidates(&self, task: &TaskName) -> io::Result<Vec<DatasetRecord>> {
        let mut candidates = Vec::new();
        for other in self.tasks()? {
            let records = self.read(&other, None)?.into_iter();
            candidates.extend(records.filter(|record| record.is_candidate_for(task)));
        }
        Ok(candidates)
    }

    /// Counts the records of a dataset by source. With `keep`, only the newest `keep` records count.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn count(&self, task: &TaskName, keep: Option<usize>) -> io::Result<DatasetCounts> {
        let mut counts = DatasetCounts::default();
        for record in self.read(task, keep)? {
            match record.source {
                LearnSource::Escalations => counts.escalations += 1,
                LearnSource::Feedback => counts.feedback += 1,
            }
        }
        Ok(counts)
    }

    /// Returns the tasks that have a dataset.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn tasks(&self) -> io::Result<Vec<TaskName>> {
        let mut tasks = Vec::new();
        for path in self.paths()? {
            let is_dataset = path.extension().is_some_and(|ext| ext == EXTENSION);
            let name = path.file_stem().and_then(|stem| stem.to_str());
            let name = name.filter(|_| is_dataset);
            tasks.extend(name.and_then(|name| TaskName::new(name).ok()));
        }
        tasks.sort();
        Ok(tasks)
    }

    /// Removes the record of a decision from a dataset, if it is there.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn remove(&mut self, task: &TaskName, decision: &str) -> io::Result<()> {
        let mut records = read_file(&self.path(task))?;
        let count = records.len();
        records.retain(|record| record.decision != decision);
        if records.len() == count {
            return Ok(());
        }
        self.replace(task, records)
    }

    /// Deletes a dataset, and returns the number of its records.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) fn delete(&mut self, task: &TaskName) -> io::Result<usize> {
        let count = self.read(task, None)?.len();
        match std::fs::remove_file(self.path(task)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        }
        self.sizes.remove(task);
        flotilla_durable::sync_dir(&self.dir)?;
        Ok(count)
    }

    /// Checks that `needed` bytes leave the reserve of the disk's space alone.
    fn ensure_room(&self, needed: u64) -> io::Result<()> {
        // Nothing is known of a folder that does not exist yet.
        let space = (self.space_at)(&self.dir);
        if space.is_some_and(|space| space.usable() < needed) {
            let problem = "the disk is full, less its reserve: free space below --data-dir";
            return Err(io::Error::new(io::ErrorKind::StorageFull, problem));
        }
        Ok(())
    }

    /// Returns the paths of all files in the folder; none if there is no folder.
    fn paths(&self) -> io::Result<Vec<PathBuf>> {
        match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn path(&self, task: &TaskName) -> PathBuf {
        // Names hold no separators.
        self.dir.join(format!("{task}.{EXTENSION}"))
    }

    fn size(&mut self, task: &TaskName) -> io::Result<FileSize> {
        if let Some(size) = self.sizes.get(task) {
            return Ok(*size);
        }
        let size = measure(&self.path(task))?;
        self.sizes.insert(task.clone(), size);
        Ok(size)
    }

    /// Replaces the file of a dataset by one with the newest of these records that it has room for.
    fn replace(&mut self, task: &TaskName, mut records: Vec<DatasetRecord>) -> io::Result<()> {
        let most = COMPACT_BYTES.min(usize::try_from(self.max_bytes).unwrap_or(usize::MAX));
        let mut lines = encode(&records);
        if lines.len() > most {
            let mut bytes = 0;
            let from = records.iter().rposition(|record| {
                bytes += encode(std::slice::from_ref(record)).len();
                bytes > most
            });
            records.drain(..from.map_or(0, |from| from + 1));
            lines = encode(&records);
        }
        self.sizes.remove(task);
        flotilla_durable::replace(&self.path(task), &lines)?;
        let size = FileSize {
            lines: records.len(),
            bytes: lines.len() as u64,
            is_torn: false,
        };
        self.sizes.insert(task.clone(), size);
        Ok(())
    }
}

/// The records as lines.
fn encode(records: &[DatasetRecord]) -> Vec<u8> {
    let mut lines = Vec::new();
    for record in records {
        // Records consist of texts and numbers, so that serializing them cannot fail.
        lines.extend(serde_json::to_vec(record).unwrap_or_default());
        lines.push(b'\n');
    }
    lines
}

fn open(path: &Path) -> io::Result<Option<BufReader<File>>> {
    match File::open(path) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the records of a file in the order of its lines; none if there is no file. Lines that are no
/// record are skipped.
fn read_file(path: &Path) -> io::Result<Vec<DatasetRecord>> {
    let mut records = Vec::new();
    let mut broken = 0_usize;
    for line in open(path)?.into_iter().flat_map(|file| file.split(b'\n')) {
        match serde_json::from_slice(&line?) {
            Ok(record) => records.push(record),
            Err(_) => broken += 1,
        }
    }
    if broken > 0 {
        tracing::warn!(path = %path.display(), lines = broken, "a dataset has lines that are no record: they are skipped");
    }
    Ok(records)
}

/// Measures a file. One that does not exist is empty.
fn measure(path: &Path) -> io::Result<FileSize> {
    let mut size = FileSize::default();
    let Some(mut file) = open(path)? else {
        return Ok(size);
    };
    loop {
        let block = file.fill_buf()?;
        let Some(last) = block.last() else {
            return Ok(size);
        };
        size.is_torn = *last != b'\n';
        size.lines += block.iter().filter(|byte| **byte == b'\n').count();
        let read = block.len();
        size.bytes += read as u64;
        file.consume(read);
    }
}

#[cfg(test)]
mod tests;
