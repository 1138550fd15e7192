//! Arguments of the commands that show and change resources: `get`, `top`, `describe`, `apply`,
//! `delete`, `model`, `backup`, `restore`, `cordon`, `uncordon` and `drain`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use flotilla_core::ArtifactName;

use super::values::seconds_between;
use super::{Endpoint, OutputFormat};

/// A kind of resource that `get` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListableKind {
    /// Nodes, with their state and their models.
    #[value(alias = "node", alias = "no")]
    Nodes,
    /// Models, with their replicas.
    #[value(alias = "model", alias = "mo")]
    Models,
    /// Assignments of models to nodes.
    #[value(alias = "assignment")]
    Assignments,
    /// Controllers that share the store.
    #[value(alias = "controller")]
    Controllers,
    /// Pushed artifacts: the files of models.
    #[value(alias = "artifact")]
    Artifacts,
    /// Tasks.
    #[value(alias = "task")]
    Tasks,
    /// Routers. A fleet has at most one, named default.
    #[value(alias = "router")]
    Routers,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla get nodes
  flotilla get models support-intent -o yaml
  flotilla get assignments -o json
  flotilla get models -w                         # again at every change")]
pub(crate) struct GetArgs {
    /// Kind of the resources.
    pub(crate) kind: ListableKind,
    /// Name of a resource, or of the model of assignments. Default: all.
    pub(crate) name: Option<String>,
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
    /// Prints changes until Ctrl-C.
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla top                                   # press ? for the keys
  flotilla top --once                            # print once and exit

If standard output is not a terminal, top prints once and exits. The environment variable NO_COLOR
turns colors off.")]
pub(crate) struct TopArgs {
    /// Prints the current numbers and tables once and exits.
    #[arg(long)]
    pub(crate) once: bool,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

/// A kind of resource that `describe` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DescribableKind {
    /// A node.
    #[value(alias = "nodes")]
    Node,
    /// A model.
    #[value(alias = "models")]
    Model,
    /// A task.
    #[value(alias = "tasks")]
    Task,
    /// The router, and how well the classifier distinguishes the tasks.
    #[value(alias = "routers")]
    Router,
}

/// A kind of resource that `delete` removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeletableKind {
    /// A node that will not return.
    #[value(alias = "nodes")]
    Node,
    /// A model.
    #[value(alias = "models")]
    Model,
    /// A task.
    #[value(alias = "tasks")]
    Task,
    /// The router.
    #[value(alias = "routers")]
    Router,
    /// A pushed artifact.
    #[value(alias = "artifacts")]
    Artifact,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla describe model support-intent
  flotilla describe node shop-17
  flotilla describe router")]
pub(crate) struct DescribeArgs {
    /// Kind of the resource.
    pub(crate) kind: DescribableKind,
    /// Name of the resource. The router needs none.
    #[arg(required_if_eq_any = [("kind", "node"), ("kind", "model"), ("kind", "task")])]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla apply -f model.yaml
  flotilla apply -f models/
  cat model.yaml | flotilla apply -f -

Kinds are Model, Task and Router. A relative path in spec.source.path or spec.examplesFrom is
relative to the file that contains it.")]
pub(crate) struct ApplyArgs {
    /// YAML or JSON file, a folder of them, or `-` for standard input. May be repeated.
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
    /// Kind of the resources.
    #[arg(required_unless_present = "files", requires = "names")]
    pub(crate) kind: Option<DeletableKind>,
    /// Names of the resources.
    pub(crate) names: Vec<String>,
    /// Deletes the resources that a YAML or JSON file, a folder of them, or standard input (`-`)
    /// names. May be repeated.
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
  flotilla backup --file fleet.yaml

Measured quality is not in the backup, and the files of pushed artifacts are only with --with-files.")]
pub(crate) struct BackupArgs {
    /// File to write. Default: standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Also saves the files of pushed artifacts, in the folder FILE.files. Files that are there already are
    /// not fetched again.
    #[arg(long, requires = "file")]
    pub(crate) with_files: bool,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  flotilla restore fleet.yaml

The files of pushed artifacts come from the folder fleet.yaml.files, if there is one, and from controllers
and nodes that still have them. The command fails if some are missing in the end.

Resources that the backup does not contain are left as they are.")]
pub(crate) struct RestoreArgs {
    /// File that `flotilla backup` wrote, or a desired state that a controller kept on its disk
    /// (`desired-state.….jsonl` in its `--data-dir`).
    pub(crate) file: PathBuf,
    /// Maximum time to wait for files that only other controllers or nodes have, in seconds: 0 to 86400.
    #[arg(long, value_name = "SECONDS", default_value = "60",
        value_parser = seconds_between(0.0, 86_400.0))]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelCommand {
    /// Uploads the folder or GGUF file of a model or an adapter as an artifact, which models name in
    /// spec.source.artifact.
    Push(PushArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla model push ./triage
  flotilla model push model.gguf --name triage

If the artifact exists with other content, every model that uses it is updated, one node after the
other.")]
pub(crate) struct PushArgs {
    /// Hugging Face folder, GGUF file, or an adapter's folder as PEFT saves it.
    pub(crate) path: PathBuf,
    /// Name of the artifact. Default: the name of the folder, or of the file without its extension.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<ArtifactName>,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CordonArgs {
    /// Names of the nodes.
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla drain shop-17
  flotilla drain shop-17 --timeout 60 --force

A replica leaves the node once its replacement is ready on another node. A replica that fits on no
other node stays, unless --force is given. `flotilla uncordon` ends the drain.")]
pub(crate) struct DrainArgs {
    /// Name of the node.
    pub(crate) name: String,
    /// Maximum time to wait for the node to be empty, in seconds: 0 to 86400.
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = seconds_between(0.0, 86_400.0))]
    pub(crate) timeout: Duration,
    /// After the timeout, also removes replicas that fit on no other node.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}
