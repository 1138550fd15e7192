//! The arguments of what shows and changes the wish: `get`, `top`, `describe`, `apply`, `delete`,
//! `model`, `backup`, `restore`, `cordon`, `uncordon`, `drain`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use flotilla_core::ArtifactName;

use super::values::seconds;
use super::{Endpoint, Format};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    #[value(alias = "node", alias = "no")]
    Nodes,
    #[value(alias = "model", alias = "mo")]
    Models,
    #[value(alias = "assignment")]
    Assignments,
    #[value(alias = "controller")]
    Controllers,
    #[value(alias = "artifact")]
    Artifacts,
    #[value(alias = "task")]
    Tasks,
    #[value(alias = "router")]
    Routers,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla get nodes
  flotilla get models support-intent -o yaml
  flotilla get assignments -o json
  flotilla get models -w                         # and again whenever something changes")]
pub(crate) struct GetArgs {
    /// What to list.
    pub(crate) kind: Kind,
    /// Only the one of this name.
    pub(crate) name: Option<String>,
    /// How to print it.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,
    /// Print what changes, until Ctrl-C.
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla top                                   # ? there says what keys do
  flotilla top --once                            # the numbers and tables, printed

Where standard output is no terminal it is printed once, too. NO_COLOR is respected.")]
pub(crate) struct TopArgs {
    /// Print what there is and end.
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Described {
    #[value(alias = "nodes")]
    Node,
    #[value(alias = "models")]
    Model,
    #[value(alias = "tasks")]
    Task,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Deleted {
    #[value(alias = "nodes")]
    Node,
    #[value(alias = "models")]
    Model,
    #[value(alias = "tasks")]
    Task,
    #[value(alias = "routers")]
    Router,
    #[value(alias = "artifacts")]
    Artifact,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla describe model support-intent
  flotilla describe node shop-17")]
pub(crate) struct DescribeArgs {
    /// What it is.
    pub(crate) kind: Described,
    /// Its name.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla apply -f model.yaml
  flotilla apply -f models/
  cat model.yaml | flotilla apply -f -

Kinds are Model, Task and Router. A relative spec.source.path or spec.examplesFrom counts
from the file it is written in.")]
pub(crate) struct ApplyArgs {
    /// A YAML or JSON file, a folder of them, or - for standard input.
    #[arg(short, long = "file", value_name = "FILE|DIR|-", required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla delete model support-intent
  flotilla delete -f models/
  flotilla delete node shop-17")]
pub(crate) struct DeleteArgs {
    /// What it is.
    #[arg(required_unless_present = "files", requires = "names")]
    pub(crate) kind: Option<Deleted>,
    /// Its name, or several.
    pub(crate) names: Vec<String>,
    /// Remove what these files name instead.
    #[arg(
        short,
        long = "file",
        value_name = "FILE|DIR|-",
        conflicts_with = "kind"
    )]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla backup > fleet.yaml
  flotilla backup --file fleet.yaml")]
pub(crate) struct BackupArgs {
    /// Where to write it. Default: standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  flotilla restore fleet.yaml

What the backup does not name stays as it is.")]
pub(crate) struct RestoreArgs {
    /// What `flotilla backup` wrote.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Upload a folder or a GGUF file; models name it in spec.source.artifact
    Push(PushArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla model push ./triage
  flotilla model push model.gguf --name triage

Pushed again with other content, every model made of it changes to that, one node after the
other.")]
pub(crate) struct PushArgs {
    /// A Hugging Face folder, or a GGUF file.
    pub(crate) path: PathBuf,
    /// Its name in the fleet. Default: that of the folder or the file.
    #[arg(long)]
    pub(crate) name: Option<ArtifactName>,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
pub(crate) struct NodeArgs {
    /// The node, or several.
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla drain shop-17
  flotilla drain shop-17 --timeout 60 --force

Each replica leaves once another one answers elsewhere. What finds no other place stays, unless
--force is given. `flotilla uncordon` takes it back.")]
pub(crate) struct DrainArgs {
    /// The node.
    pub(crate) name: String,
    /// Seconds to wait until the node is empty.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Have models leave after the timeout that found no other place.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}
