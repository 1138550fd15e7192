//! The command line: every flag, its environment variable and its help. One file for what runs a
//! fleet, one for what asks models, one for what shows and changes the wish.

use clap::{Parser, Subcommand, ValueEnum};

mod ask;
mod run;
mod values;
mod wish;

pub(crate) use ask::{ChatArgs, EvalArgs, ExplainArgs, RouteArgs, ScoreBy};
pub(crate) use run::{AgentArgs, ControllerArgs, UpArgs};
pub(crate) use wish::{
    ApplyArgs, BackupArgs, DeleteArgs, Deleted, DescribeArgs, Described, DrainArgs, GetArgs, Kind,
    ModelCommand, NodeArgs, PushArgs, RestoreArgs, TopArgs,
};

/// Many small language models on unequal machines, behind one OpenAI-compatible API.
#[derive(Debug, Parser)]
#[command(name = "flotilla", version, max_term_width = 100)]
#[command(after_help = "Examples:
  flotilla up                              # a fleet on this machine, with demo models
  flotilla chat support-intent \"where is my card?\"
  flotilla get nodes
  flotilla apply -f model.yaml")]
pub(crate) struct Args {
    /// What to log, to standard error: a level, or directives such as `info,flotilla_agent=debug`.
    #[arg(
        long,
        env = "FLOTILLA_LOG",
        global = true,
        value_name = "FILTER",
        default_value = ""
    )]
    pub(crate) log: String,
    /// How log lines look: for people, or an object of JSON each, with the ids of its trace.
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

/// How log lines look.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a fleet on this machine: a controller, agents and the demo models
    Up(UpArgs),
    /// Run a controller
    Controller(Box<ControllerArgs>),
    /// Run an agent: one per node
    Agent(AgentArgs),
    /// Talk to a model
    Chat(ChatArgs),
    /// Say where a request would go, and why
    Route(RouteArgs),
    /// Say why a request went where it went
    Explain(ExplainArgs),
    /// Measure how well models do a task, and where a small one is enough
    Eval(EvalArgs),
    /// List nodes, models, tasks or assignments
    Get(GetArgs),
    /// Watch the fleet: nodes, models, and requests as they end
    Top(TopArgs),
    /// Show everything about a node, a model or a task
    Describe(DescribeArgs),
    /// Make the fleet's wish what files say
    Apply(ApplyArgs),
    /// Bring a model's files to the fleet
    #[command(subcommand)]
    Model(ModelCommand),
    /// Write the whole wish: models, tasks, the router, pushed files by their digests, cordons
    Backup(BackupArgs),
    /// Make the wish what a backup says
    Restore(RestoreArgs),
    /// Remove models, tasks, the router, or nodes that will not return
    Delete(DeleteArgs),
    /// Give a node no new models
    Cordon(NodeArgs),
    /// Give a node new models again, also after a drain
    Uncordon(NodeArgs),
    /// Move a node's models elsewhere and give it no new ones
    Drain(DrainArgs),
    /// Print completions for a shell
    #[command(after_help = "Example:
  flotilla completions bash > ~/.local/share/bash-completion/completions/flotilla")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether it runs a part of a fleet, rather than talk to one.
    pub(crate) fn serves(&self) -> bool {
        matches!(self, Self::Up(_) | Self::Controller(_) | Self::Agent(_))
    }
}

/// Where the fleet is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Endpoint {
    /// The fleet's address.
    #[arg(
        long,
        env = "FLOTILLA_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub(crate) url: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
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
