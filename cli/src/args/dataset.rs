//! Arguments of `flotilla dataset`.

use std::path::PathBuf;

use clap::Subcommand;
use flotilla_core::TaskName;

use super::{Endpoint, OutputFormat};

#[derive(Debug, Subcommand)]
pub(crate) enum DatasetCommand {
    /// Shows how many prompts each task has kept, by source.
    List(DatasetListArgs),
    /// Writes what a task has kept as JSON Lines: prompts with their answers, for fine-tuning.
    Export(DatasetExportArgs),
    /// Deletes what a task has kept, on all controllers.
    Delete(DatasetDeleteArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  flotilla dataset list

Nothing is kept unless a task's spec.learn says so.")]
pub(crate) struct DatasetListArgs {
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla dataset export --task support -o support.jsonl
  flotilla eval --task support --data support.jsonl

Each line is a JSON object with messages, answer, source, task, model, confidence, decision and at (in
milliseconds since 1970). If a controller does not answer, a note says so and the rest is written.")]
pub(crate) struct DatasetExportArgs {
    /// Task whose dataset is written.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: TaskName,
    /// File to write. Default: standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Also writes prompts without an answer: those that feedback says have a bad one, or belong to
    /// another task.
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  flotilla dataset delete --task support --yes

The task goes on learning if its spec.learn says so.")]
pub(crate) struct DatasetDeleteArgs {
    /// Task whose dataset is deleted.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: TaskName,
    /// Confirms the deletion, which cannot be undone.
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}
