//! The arguments of what asks models, or why they were asked: `chat`, `route`, `explain`, `eval`.

use std::path::PathBuf;

use clap::ValueEnum;
use flotilla_core::ModelName;

use super::values::{at_once, part};
use super::{Endpoint, Format};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla chat                                  # interactive, with the only or the first model
  flotilla chat numbers \"what is the sum of 4, 8 and 15?\"
  echo \"where is my card?\" | flotilla chat support-intent")]
pub(crate) struct ChatArgs {
    /// The model. Default: the first one of the fleet.
    pub(crate) model: Option<String>,
    /// What to say. Without it the conversation is interactive, or standard input is read.
    pub(crate) prompt: Vec<String>,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 for always the most probable token.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    pub(crate) temperature: f64,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla route \"why was my card declined\"
  flotilla route --zone clinic-7 \"book a room\" -o json

Nothing is asked of a model.")]
pub(crate) struct RouteArgs {
    /// The request.
    pub(crate) text: String,
    /// What the request's `model` field says: auto, task:NAME or a model.
    #[arg(long, value_name = "MODEL", default_value = "auto")]
    pub(crate) model: String,
    /// Only nodes in this privacy zone.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// How to print it.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  flotilla explain 3f2c9a7d10be-1f4

The id is in the response's header x-flotilla-decision. Each controller keeps its last 100,000.")]
pub(crate) struct ExplainArgs {
    /// The decision's id.
    pub(crate) id: String,
    /// How to print it.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

/// When an answer is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScoreBy {
    /// It is the expected text
    Exact,
    /// It names the expected label, whatever the case
    Label,
    /// It is JSON with every expected field
    Json,
    /// Its last number is the expected one, within --tolerance
    Numeric,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla eval --task support --data held-out.jsonl
  flotilla eval --task assistant --data val.jsonl --expect intent --calibrate --apply

A line of the data is {\"text\": ..., \"expected\": ...}; \"messages\" and \"label\" will do as well.
What was answered is kept in a journal: broken off and called again, it goes on where it was.")]
pub(crate) struct EvalArgs {
    /// The task.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: String,
    /// Requests with their right answers, a JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// Of the task's models only these. Default: all.
    #[arg(long, value_name = "MODEL,...", value_delimiter = ',')]
    pub(crate) models: Vec<ModelName>,
    /// When an answer is right.
    #[arg(long, value_name = "HOW", default_value = "exact")]
    pub(crate) score: ScoreBy,
    /// With --score numeric: by what part of it a number may be off.
    #[arg(long, value_name = "PART", default_value_t = 0.0)]
    pub(crate) tolerance: f64,
    /// The field with the request. Default: messages, text, prompt, question or input.
    #[arg(long, value_name = "FIELD")]
    pub(crate) text: Option<String>,
    /// The field with the right answer. Default: expected, label, answer or output.
    #[arg(long, value_name = "FIELD")]
    pub(crate) expect: Option<String>,
    /// Only so many requests, drawn evenly over the file.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Only nodes in this privacy zone. Default: the first one of the task, if it has any.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// Requests at once. More than one is faster, but times then are those of a busy fleet.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = at_once)]
    pub(crate) concurrency: usize,
    /// Where answers are kept as they come. Default: a file in ./flotilla-eval for this task, data
    /// and scoring.
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,
    /// Do not have the fleet keep what was measured.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Find how sure each model but the last must be for its answer to be kept, the smallest first.
    #[arg(long)]
    pub(crate) calibrate: bool,
    /// With --calibrate: the quality to reach, 0 to 1, at the least energy. Default: a quarter of a
    /// point below that of the last model.
    #[arg(long, value_name = "QUALITY", requires = "calibrate", value_parser = part)]
    pub(crate) target: Option<f32>,
    /// With --calibrate: write what was found into the task.
    #[arg(long, requires = "calibrate")]
    pub(crate) apply: bool,
    /// How to print it.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}
