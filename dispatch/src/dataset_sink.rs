//! The interface to whatever keeps the prompts and answers that tasks learn from.

use flotilla_core::TaskName;
use flotilla_core::dataset::DatasetRecord;

/// Takes the records of datasets, such as the controller's files. Its methods are called from the tasks of
/// requests: they must not block.
pub trait DatasetSink: Send + Sync {
    /// Takes a record of the dataset of its task, which has at most the newest `keep` records. A record
    /// replaces an earlier one of the same decision. Returns whether the record was taken.
    fn keep(&self, record: DatasetRecord, keep: u32) -> bool;

    /// Removes the record of a decision from the dataset of `task`. Returns whether the removal was taken.
    fn remove(&self, task: &TaskName, decision: &str) -> bool;
}

/// A sink that keeps nothing.
pub(crate) struct NoDatasets;

impl DatasetSink for NoDatasets {
    fn keep(&self, _: DatasetRecord, _: u32) -> bool {
        true
    }

    fn remove(&self, _: &TaskName, _: &str) -> bool {
        true
    }
}
