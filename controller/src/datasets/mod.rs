//! The datasets of tasks on this controller's disk: the prompts and answers that tasks learn from.
//!
//! Start reading at [`DatasetKeeper`], the task that owns the files. The request path hands records over to
//! it through a [`DatasetHandle`] and never waits.

mod files;
mod keeper;

pub(crate) use files::{DATASETS_DIR, DatasetCounts, DatasetFiles};
pub(crate) use keeper::{DatasetHandle, DatasetKeeper};
