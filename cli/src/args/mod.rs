//! The command line: every command and flag with its environment variable and its help text.
//!
//! `servers` has the commands that run a fleet, `requests` those about requests to models, and
//! `resources` those that show and change the fleet's resources. `docs/reference/cli.md` is
//! generated from the doc comments in this module; see [`crate::reference`].

use clap::{Parser, Subcommand, ValueEnum};

mod requests;
mod resources;
mod servers;
mod time_limits;
mod values;

pub(crate) use requests::{ChatArgs, EvalArgs, ExplainArgs, RouteArgs, ScoringMethod};
pub(crate) use resources::{
    ApplyArgs, BackupArgs, CordonArgs, DeletableKind, DeleteArgs, DescribableKind, DescribeArgs,
    DrainArgs, GetArgs, ListableKind, ModelCommand, PushArgs, RestoreArgs, TopArgs,
};
pub(crate) use servers::{AgentArgs, ControllerArgs, UpArgs};

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
    Agent(AgentArgs),
    /// Sends a prompt to a model and prints the answer.
    Chat(ChatArgs),
    /// Shows which replica a request would be sent to, and why, without sending it.
    Route(RouteArgs),
    /// Shows which replica answered a past request, and why.
    Explain(ExplainArgs),
    /// Measures the quality of a task's models on labelled requests, and calibrates the task's
    /// cascade.
    Eval(EvalArgs),
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
    /// Writes the fleet's desired state to a file: models, tasks, the router, pushed artifacts (as
    /// digests) and node operations.
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

impl Command {
    /// Whether the command runs a controller or an agent in this process.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Controller(_) | Self::Agent(_))
    }
}

/// The fleet that a command talks to.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Endpoint {
    /// URL of a controller's HTTP API.
    #[arg(
        long,
        env = "FLOTILLA_URL",
        hide_env_values = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub(crate) url: String,
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
    use clap::CommandFactory;

    #[test]
    fn command_line_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_flag_of_a_server_has_an_environment_variable() {
        for server in ["up", "controller", "agent"] {
            let command = Args::command();
            let server = command.find_subcommand(server).unwrap();
            for flag in server.get_arguments().filter(|a| a.get_long().is_some()) {
                assert!(flag.get_env().is_some(), "--{}", flag.get_id());
            }
        }
    }
}
