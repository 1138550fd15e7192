//! The command line: every command and flag with its environment variable and its help text.
//!
//! `servers` has the commands that run a fleet, `access` those about who belongs to it, `keys` and `contexts` those about who may
//! use it, `requests` those about requests to models, `tasks` and
//! `dataset` those about what tasks learn, and `resources` those that show and change the fleet's
//! resources. `docs/reference/cli.md` is generated from the doc comments in this module; see
//! [`crate::reference`].

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

mod access;
mod audit;
mod contexts;
mod dataset;
mod endpoint;
mod keys;
mod requests;
mod resources;
mod servers;
mod tasks;
mod time_limits;
mod trust;
mod values;

pub(crate) use access::{
    NodeCommand, RevokeArgs, SecretCommand, TokenCommand, TokenCreateArgs, TokenListArgs,
};
pub(crate) use audit::AuditArgs;
pub(crate) use contexts::{ContextCommand, LoginArgs};
pub(crate) use dataset::{DatasetCommand, DatasetDeleteArgs, DatasetExportArgs, DatasetListArgs};
pub(crate) use endpoint::Endpoint;
pub(crate) use keys::{KeyCommand, KeyCreateArgs, KeyListArgs, KeyRevokeArgs};
pub(crate) use requests::{ChatArgs, EvalArgs, ExplainArgs, RouteArgs, ScoringMethod};
pub(crate) use resources::{
    ApplyArgs, BackupArgs, CordonArgs, DeletableKind, DeleteArgs, DescribableKind, DescribeArgs,
    DrainArgs, GetArgs, ListableKind, ModelCommand, PushArgs, RestoreArgs, TopArgs,
};
pub(crate) use servers::{AgentArgs, ControllerArgs, RunnerArgs, UpArgs};
pub(crate) use tasks::{CheckArgs, SuggestArgs, TasksCommand};

/// Serves many small language models on many unequal nodes behind one OpenAI-compatible API.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version, max_term_width = 100)]
#[command(after_help = "Examples:
  flotilla up                              # a fleet on this machine, with the demo models
  flotilla chat support-intent \"where is my card?\"
  flotilla get nodes
  flotilla apply -f model.yaml")]
pub(crate) struct Args {
    /// What to log to standard error: a level, or directives such as
    /// `info,flotilla_agent=debug`. Default: `info` for `controller` and `agent`, `error` for
    /// all other commands.
    #[arg(
        long,
        env = "FLOTILLA_LOG",
        global = true,
        value_name = "FILTER",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) log: String,
    /// Format of log lines.
    #[arg(
        long,
        env = "FLOTILLA_LOG_FORMAT",
        global = true,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line, with the line's trace and span ids.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Starts a fleet on this machine: a controller, several agents and the demo models.
    Up(UpArgs),
    /// Runs a controller, which serves the API, routes requests and places models on nodes.
    Controller(Box<ControllerArgs>),
    /// Runs an agent, which hosts models on its node. Each node needs an agent.
    Agent(Box<AgentArgs>),
    /// Computes one model for the agent that started it.
    #[command(hide = true)]
    Runner(RunnerArgs),
    /// Sends a prompt to a model and prints the answer.
    Chat(ChatArgs),
    /// Shows which replica a request would be sent to, and why, without sending it.
    Route(RouteArgs),
    /// Shows which replica answered a past request, and why.
    Explain(ExplainArgs),
    /// Measures the quality of a task's models on labelled requests, and calibrates the task's
    /// cascade.
    Eval(EvalArgs),
    /// Improves the examples of tasks.
    #[command(subcommand)]
    Tasks(TasksCommand),
    /// Manages what tasks have kept of prompts and answers, to learn from.
    #[command(subcommand)]
    Dataset(DatasetCommand),
    /// Lists resources.
    Get(GetArgs),
    /// Shows nodes, models and recent requests, updated every second.
    Top(TopArgs),
    /// Shows the details of a node, a model or a task.
    Describe(DescribeArgs),
    /// Creates or changes resources from files.
    Apply(ApplyArgs),
    /// Manages the files of models.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Manages the API keys of people and programs.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Shows who changed what, and which requests were refused.
    Audit(AuditArgs),
    /// Checks the key for a fleet, and saves both as the current context.
    Login(LoginArgs),
    /// Manages the contexts that `login` has saved.
    #[command(subcommand)]
    Context(ContextCommand),
    /// Writes the fleet's desired state to a file: models, tasks, the router, pushed artifacts (as
    /// digests), node operations and API keys (as digests).
    Backup(BackupArgs),
    /// Applies the resources of a backup.
    Restore(RestoreArgs),
    /// Deletes models, tasks, the router, artifacts, or nodes that will not return.
    Delete(DeleteArgs),
    /// Marks nodes as unschedulable: no new models are placed on them.
    #[command(after_help = "Example:
  flotilla cordon shop-17")]
    Cordon(CordonArgs),
    /// Marks nodes as schedulable again, and ends a drain.
    #[command(after_help = "Example:
  flotilla uncordon shop-17")]
    Uncordon(CordonArgs),
    /// Cordons a node and moves its models to other nodes.
    Drain(DrainArgs),
    /// Makes the secret of a fleet, with which its controllers protect it.
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Manages join tokens, with which new nodes enrol.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Manages the enrolment of nodes.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Prints a completion script for a shell.
    #[command(after_help = "Example:
  flotilla completions bash > ~/.local/share/bash-completion/completions/flotilla")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints a generated file of `docs/reference/`.
    #[command(hide = true, subcommand)]
    Reference(ReferenceCommand),
}

/// A file to generate.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ReferenceCommand {
    /// Prints the reference of all commands as Markdown.
    Cli,
    /// Prints the reference of all fields of resources as Markdown.
    Resources,
    /// Prints the JSON Schema of a resource.
    Schema {
        /// Kind of the resource.
        kind: ResourceKind,
    },
}

/// A kind of resource.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ResourceKind {
    /// A model to serve.
    Model,
    /// A class of requests.
    Task,
    /// The routing of the fleet.
    Router,
}

/// Names of values that are numbers. Their parsers refuse negative ones with the range, which the parser of
/// the command line would take for flags.
const NUMBERS: [&str; 10] = [
    "DURATION",
    "FACTOR",
    "FRACTION",
    "N",
    "QUALITY",
    "SECONDS",
    "SIZE",
    "TEMPERATURE",
    "TOKENS",
    "WATTS",
];

impl Args {
    /// The arguments of this process. Ends it with a message if they are not valid.
    pub(crate) fn of_this_process() -> Self {
        let matches = pass_negative_numbers(Self::command()).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Passes negative numbers to the parsers of numbers, in a command and its subcommands.
fn pass_negative_numbers(command: clap::Command) -> clap::Command {
    let pass = |arg: clap::Arg| {
        let names = arg.get_value_names().unwrap_or_default();
        let is_number = names.iter().any(|name| NUMBERS.contains(&name.as_str()));
        arg.allow_hyphen_values(is_number)
    };
    command
        .mut_args(pass)
        .mut_subcommands(pass_negative_numbers)
}

impl Command {
    /// Whether the command runs a controller or an agent in this process.
    pub(crate) fn is_server(&self) -> bool {
        matches!(
            self,
            Self::Up(_) | Self::Controller(_) | Self::Agent(_) | Self::Runner(_)
        )
    }
}

/// Format of a command's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// A table or text for people.
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_definition_is_consistent() {
        Args::command().debug_assert();
    }

    /// All commands with the way to them.
    fn commands(command: &clap::Command, way: &[String]) -> Vec<(Vec<String>, clap::Command)> {
        let way = [way, &[command.get_name().to_owned()]].concat();
        let below = command.get_subcommands();
        let below = below.flat_map(|command| commands(command, &way));
        [(way.clone(), command.clone())]
            .into_iter()
            .chain(below)
            .collect()
    }

    #[test]
    fn no_flag_for_a_number_takes_a_negative_one_or_nonsense_and_each_says_its_range() {
        for (way, command) in commands(&Args::command(), &[]) {
            for flag in command.get_arguments().filter(|arg| !arg.is_positional()) {
                let names = flag.get_value_names().unwrap_or_default();
                if !names.iter().any(|name| NUMBERS.contains(&name.as_str())) {
                    continue;
                }
                let name = format!("--{}", flag.get_long().unwrap());
                let help = flag.get_help().unwrap().to_string();
                assert!(help.contains(char::is_numeric), "{way:?} {name}: {help}");
                for value in ["-5", "nan", "inf", "-1GiB", ""] {
                    let line = [&way[..], &[name.clone(), value.to_owned()]].concat();
                    let parsed = pass_negative_numbers(Args::command()).try_get_matches_from(line);
                    let error = parsed.unwrap_err();
                    assert_eq!(
                        error.kind(),
                        clap::error::ErrorKind::ValueValidation,
                        "{way:?} {name} {value}: {error}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_flag_of_a_server_has_an_environment_variable() {
        // It is for one start: a variable would stay for the next.
        let is_lasting = |flag: &&clap::Arg| flag.get_id() != "init_store";
        for server in ["up", "controller", "agent"] {
            let command = Args::command();
            let server = command.find_subcommand(server).unwrap();
            let flags = server.get_arguments().filter(|a| a.get_long().is_some());
            for flag in flags.filter(is_lasting) {
                assert!(flag.get_env().is_some(), "--{}", flag.get_id());
            }
        }
    }
}
