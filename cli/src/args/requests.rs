//! Arguments of the commands about requests to models: `chat`, `route`, `explain` and `eval`.

use std::path::PathBuf;

use clap::ValueEnum;
use flotilla_core::ModelName;

use super::values::number_between;
use super::{Endpoint, OutputFormat};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla chat                                  # a conversation with the fleet's first model
  flotilla chat numbers \"what is the sum of 4, 8 and 15?\"
  echo \"where is my card?\" | flotilla chat support-intent")]
pub(crate) struct ChatArgs {
    /// Model, `auto` or `task:NAME`. Default: the fleet's first model.
    pub(crate) model: Option<String>,
    /// Prompt. Default: a conversation at a terminal, else standard input.
    pub(crate) prompt: Vec<String>,
    /// System message before the conversation.
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Maximum length of an answer in tokens, at least 1. Default: the model's limit.
    #[arg(long, value_name = "TOKENS", value_parser = number_between(1, u32::MAX))]
    pub(crate) max_tokens: Option<u32>,
    /// Sampling temperature, 0 to 2. 0 always picks the most probable token. Default: the model's.
    #[arg(long, value_name = "TEMPERATURE", value_parser = number_between(0.0, 2.0))]
    pub(crate) temperature: Option<f64>,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla route \"why was my card declined\"
  flotilla route --zone clinic-7 \"book a room\" -o json

No model runs.")]
pub(crate) struct RouteArgs {
    /// Text of the request.
    pub(crate) text: String,
    /// Value of the request's `model` field: a model, `auto` or `task:NAME`.
    #[arg(long, value_name = "MODEL", default_value = "auto")]
    pub(crate) model: String,
    /// Privacy zone that the request must stay in. Default: no zone.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  flotilla explain 3f2c9a7d10be-1f4

The id is in the response header x-flotilla-decision. Each controller keeps its last decisions in
memory (controller --max-decisions, by default 100000).")]
pub(crate) struct ExplainArgs {
    /// Id of the routing decision.
    pub(crate) id: String,
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

/// The rule by which an answer counts as correct.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScoringMethod {
    /// The answer equals the expected text.
    Exact,
    /// The answer names the expected label; case does not matter.
    Label,
    /// The answer is JSON that contains every expected field.
    Json,
    /// The last number of the answer is the expected number, within --tolerance.
    Numeric,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla eval --task support --data held-out.jsonl
  flotilla eval --task assistant --data val.jsonl --expected-field intent --calibrate --apply

Each line of the data is a JSON object such as {\"text\": ..., \"expected\": ...}.
Answers are kept in a journal. An interrupted evaluation continues from it when the same command
runs again.")]
pub(crate) struct EvalArgs {
    /// Task to evaluate.
    #[arg(long, value_name = "TASK")]
    pub(crate) task: String,
    /// JSON Lines file with labelled requests.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// Models of the task to evaluate. Default: all of them.
    #[arg(long, value_name = "MODEL,...", value_delimiter = ',')]
    pub(crate) models: Vec<ModelName>,
    /// Rule by which an answer counts as correct.
    #[arg(long, value_name = "METHOD", default_value = "exact")]
    pub(crate) scoring: ScoringMethod,
    /// With `--scoring numeric`: relative error that still counts as correct, 0.01 for 1 %: 0 to 1.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0,
        value_parser = number_between(0.0, 1.0))]
    pub(crate) tolerance: f64,
    /// Field of a line that holds the request. Default: the first of messages, text, prompt,
    /// question and input that is present.
    #[arg(long, value_name = "FIELD")]
    pub(crate) request_field: Option<String>,
    /// Field of a line that holds the expected answer. Default: the first of expected, label,
    /// answer and output that is present.
    #[arg(long, value_name = "FIELD")]
    pub(crate) expected_field: Option<String>,
    /// Maximum number of requests, at least 1, sampled evenly from the file. Default: all of them.
    #[arg(long, value_name = "N", value_parser = number_between(1, u32::MAX))]
    pub(crate) limit: Option<u32>,
    /// Maximum length of an answer in tokens, at least 1. Default: the model's limit.
    #[arg(long, value_name = "TOKENS", value_parser = number_between(1, u32::MAX))]
    pub(crate) max_tokens: Option<u32>,
    /// Privacy zone that the requests must stay in. Default: the task's first zone, if it has any.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// Number of concurrent requests, 1 to 1000. With more than 1, the latencies are those of a
    /// fleet under load.
    #[arg(long, value_name = "N", default_value_t = 1, 
        value_parser = number_between(1_usize, 1_000))]
    pub(crate) concurrency: usize,
    /// File in which answers are kept. Default: a file in ./flotilla-eval for this task, data and
    /// scoring.
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,
    /// Does not store the measured quality in the fleet.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Finds the confidence thresholds of the task's cascade. List the models from the smallest to
    /// the largest.
    #[arg(long)]
    pub(crate) calibrate: bool,
    /// With `--calibrate`: quality to reach at the lowest energy, 0 to 1. Default: that of the last
    /// model minus 0.0025.
    #[arg(long, value_name = "QUALITY", requires = "calibrate", 
        value_parser = number_between(0.0_f32, 1.0))]
    pub(crate) target_quality: Option<f32>,
    /// With `--calibrate`: writes the thresholds into the task.
    #[arg(long, requires = "calibrate")]
    pub(crate) apply: bool,
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}
