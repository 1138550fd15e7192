//! Arguments of `flotilla tasks`.

use std::path::PathBuf;

use clap::Subcommand;

use super::values::number_between;
use super::{Endpoint, OutputFormat};

#[derive(Debug, Subcommand)]
pub(crate) enum TasksCommand {
    /// Reports how well tasks can be distinguished by their examples.
    Check(CheckArgs),
    /// Suggests examples to add to a task, from the prompts that were kept.
    Suggest(SuggestArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla tasks check -f tasks.yaml     # without applying them, and without a controller
  flotilla tasks check                   # those of the fleet

Each example is classified by a classifier that was trained without it. The report has the share that is
right for each task, the tasks that are confused most, and examples that contradict each other.")]
pub(crate) struct CheckArgs {
    /// Resource file, or folder of such files. May be given several times. Default: the tasks of the fleet.
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla tasks suggest banking
  flotilla tasks suggest banking --limit 5 -o yaml     # to be pasted into the task's spec

The most useful come first: prompts that feedback says belong to the task and that the classifier misses,
then those of which it is least sure. Read them before you add them.")]
pub(crate) struct SuggestArgs {
    /// Name of the task.
    pub(crate) task: String,
    /// Maximum number of suggestions, 1 to 1000.
    #[arg(long, value_name = "N", default_value = "20", value_parser = number_between(1_u32, 1_000))]
    pub(crate) limit: u32,
    /// Output format: YAML and JSON have only the texts, in the form of the task's spec.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}
