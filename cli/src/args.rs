//! The command line: every flag, its environment variable and its help, in one place.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use flotilla_controller::{EtcdAddress, EtcdTls, StoreAddress};
use flotilla_core::energy::Power;
use flotilla_core::spec::Taint;
use flotilla_core::{ArtifactName, Bytes, ModelName, NodeName, Watts, ZoneName};

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
    #[command(subcommand)]
    pub(crate) command: Command,
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

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla up
  flotilla up --nodes 5 --http 0.0.0.0:8080 --data-dir /var/lib/flotilla")]
pub(crate) struct UpArgs {
    /// Where the fleet keeps its state; a later start goes on with it.
    #[arg(
        long,
        env = "FLOTILLA_DATA_DIR",
        value_name = "DIR",
        default_value = "flotilla-data"
    )]
    pub(crate) data_dir: PathBuf,
    /// Where the API listens.
    #[arg(
        long,
        env = "FLOTILLA_HTTP",
        value_name = "ADDR",
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) http: SocketAddr,
    /// How many agents to run.
    #[arg(long, env = "FLOTILLA_NODES", value_name = "N", default_value_t = 3,
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) nodes: u32,
    /// Folder with the models to place at the first start. Default: the demo models.
    #[arg(long, env = "FLOTILLA_MODELS", value_name = "DIR")]
    pub(crate) models: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla controller
  flotilla controller --http 0.0.0.0:8080 --link 0.0.0.0:7070 --store embedded:/var/lib/flotilla")]
pub(crate) struct ControllerArgs {
    /// Where the API listens.
    #[arg(
        long,
        env = "FLOTILLA_HTTP",
        value_name = "ADDR",
        default_value = "127.0.0.1:8080"
    )]
    pub(crate) http: SocketAddr,
    /// Where agents dial in.
    #[arg(
        long,
        env = "FLOTILLA_LINK",
        value_name = "ADDR",
        default_value = "127.0.0.1:7070"
    )]
    pub(crate) link: SocketAddr,
    /// HOST:PORT of --link as agents and other controllers reach it. Default: that address, or
    /// the machine's name where it stands for all addresses.
    #[arg(long, env = "FLOTILLA_ADVERTISE_LINK", value_name = "HOST:PORT")]
    pub(crate) advertise_link: Option<String>,
    /// The same of --http.
    #[arg(long, env = "FLOTILLA_ADVERTISE_HTTP", value_name = "HOST:PORT")]
    pub(crate) advertise_http: Option<String>,
    /// Where the wish is kept: `embedded:DIR` or `etcd://HOST:PORT,HOST:PORT`.
    #[arg(
        long,
        env = "FLOTILLA_STORE",
        value_name = "STORE",
        default_value = "embedded:flotilla-data/controller"
    )]
    store: StoreAddress,
    /// Where files of models are kept that agents fetch from here.
    #[arg(
        long,
        env = "FLOTILLA_DATA_DIR",
        value_name = "DIR",
        default_value = "flotilla-data/controller"
    )]
    pub(crate) data_dir: PathBuf,
    /// User of etcd.
    #[arg(
        long,
        env = "FLOTILLA_ETCD_USER",
        value_name = "NAME",
        requires = "etcd_password"
    )]
    etcd_user: Option<String>,
    /// Password of that user. Better given by the environment, where nobody else reads it.
    #[arg(
        long,
        env = "FLOTILLA_ETCD_PASSWORD",
        value_name = "PASSWORD",
        requires = "etcd_user",
        hide_env_values = true
    )]
    etcd_password: Option<String>,
    /// PEM file with the authority of etcd's certificates; turns TLS on.
    #[arg(long, env = "FLOTILLA_ETCD_CA", value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// PEM file with the certificate shown to etcd.
    #[arg(long, env = "FLOTILLA_ETCD_CERT", value_name = "FILE", requires_all = ["etcd_ca", "etcd_key"])]
    etcd_cert: Option<PathBuf>,
    /// PEM file with the key of that certificate.
    #[arg(
        long,
        env = "FLOTILLA_ETCD_KEY",
        value_name = "FILE",
        requires = "etcd_cert"
    )]
    etcd_key: Option<PathBuf>,
    /// Largest request body.
    #[arg(
        long,
        env = "FLOTILLA_MAX_BODY",
        value_name = "BYTES",
        default_value = "4MiB"
    )]
    pub(crate) max_body: Bytes,
    /// Seconds a request may wait for its first token.
    #[arg(long, env = "FLOTILLA_FIRST_TOKEN_TIMEOUT", value_name = "SECONDS",
        default_value = "300", value_parser = seconds)]
    pub(crate) first_token_timeout: Duration,
    /// Seconds a node's link may be silent before it counts as away and gets no requests.
    #[arg(long, env = "FLOTILLA_LINK_TIMEOUT", value_name = "SECONDS", default_value = "5",
        value_parser = seconds)]
    pub(crate) link_timeout: Duration,
    /// Seconds a node may be away before its models are placed elsewhere.
    #[arg(long, env = "FLOTILLA_NODE_GRACE", value_name = "SECONDS", default_value = "5",
        value_parser = seconds)]
    pub(crate) node_grace: Duration,
    /// Connections that each agent opens for requests.
    #[arg(long, env = "FLOTILLA_CONNECTIONS", value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) connections: u32,
    /// Routing decisions that are kept in memory, each of about 1 kB.
    #[arg(long, env = "FLOTILLA_DECISIONS", value_name = "N", default_value_t = 100_000,
        value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) decisions: u32,
    /// Keep in decisions also what was asked: the newest turn, never that of requests which are
    /// held to privacy zones.
    #[arg(long, env = "FLOTILLA_RECORD_PROMPTS")]
    pub(crate) record_prompts: bool,
}

impl ControllerArgs {
    /// The store with how to reach it.
    ///
    /// # Errors
    /// When settings for etcd are given without etcd.
    pub(crate) fn store(&self) -> anyhow::Result<StoreAddress> {
        let user = self.etcd_user.clone().zip(self.etcd_password.clone());
        let identity = self.etcd_cert.clone().zip(self.etcd_key.clone());
        let tls = self.etcd_ca.clone().map(|ca| EtcdTls { ca, identity });
        match self.store.clone() {
            StoreAddress::Etcd(address) => Ok(StoreAddress::Etcd(EtcdAddress {
                user,
                tls,
                ..address
            })),
            StoreAddress::Embedded(_) if user.is_some() || tls.is_some() => {
                anyhow::bail!("--etcd-user and --etcd-ca need --store etcd://HOST:PORT")
            }
            embedded => Ok(embedded),
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla agent --join controller.example:7070 --name shop-17
  flotilla agent --join 10.0.0.1:7070,10.0.0.2:7070 --name shop-17 --label region=north --memory 8GiB")]
pub(crate) struct AgentArgs {
    /// Link addresses of controllers. One that answers is enough: it names the others.
    #[arg(
        long,
        env = "FLOTILLA_JOIN",
        value_name = "ADDR,...",
        value_delimiter = ',',
        required = true
    )]
    pub(crate) join: Vec<String>,
    /// The node's name in the fleet.
    #[arg(long, env = "FLOTILLA_NODE_NAME", value_name = "NAME")]
    pub(crate) name: NodeName,
    /// Where the agent keeps its identity and what it should run. Default: flotilla-data/NAME.
    #[arg(long, env = "FLOTILLA_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Labels of the node.
    #[arg(long = "label", env = "FLOTILLA_LABELS", value_name = "KEY=VALUE", value_delimiter = ',',
        value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Taints of the node: only models that tolerate them are placed on it.
    #[arg(long = "taint", env = "FLOTILLA_TAINTS", value_name = "KEY[=VALUE]", value_delimiter = ',',
        value_parser = taint)]
    pub(crate) taints: Vec<Taint>,
    /// The privacy zone that the node is in.
    #[arg(long, env = "FLOTILLA_ZONE", value_name = "NAME")]
    pub(crate) zone: Option<ZoneName>,
    /// Memory for models, such as 8GiB. Default: four fifths of the machine's.
    #[arg(long, env = "FLOTILLA_MEMORY", value_name = "BYTES")]
    pub(crate) memory: Option<Bytes>,
    /// Bytes per second that models' files may take of the line to the controllers, such as
    /// 2MiB. Default: no limit.
    #[arg(long, env = "FLOTILLA_FETCH_RATE", value_name = "BYTES")]
    pub(crate) fetch_rate: Option<Bytes>,
    /// Watts that the node draws with nothing to do. With --max-watts: joules are told from them
    /// where nothing meters. Default: guessed from its cores.
    #[arg(long, env = "FLOTILLA_IDLE_WATTS", value_name = "WATTS", requires = "max_watts",
        value_parser = watts)]
    pub(crate) idle_watts: Option<f32>,
    /// Watts that it draws with all it computes with at work.
    #[arg(long, env = "FLOTILLA_MAX_WATTS", value_name = "WATTS", requires = "idle_watts",
        value_parser = watts)]
    pub(crate) max_watts: Option<f32>,
    /// How many times slower the null engine is here, to simulate unequal nodes.
    #[arg(long, env = "FLOTILLA_NULL_SLOWDOWN", value_name = "FACTOR", default_value = "1",
        value_parser = factor)]
    pub(crate) null_slowdown: f64,
    /// Seconds that requests under way may go on when the agent stops or a model leaves.
    #[arg(long, env = "FLOTILLA_DRAIN", value_name = "SECONDS", default_value = "30",
        value_parser = seconds)]
    pub(crate) drain: Duration,
}

impl AgentArgs {
    /// What the node draws, where that was said.
    pub(crate) fn power(&self) -> Option<Power> {
        let (idle, max) = self.idle_watts.zip(self.max_watts)?;
        Some(Power {
            idle: Watts(idle),
            max: Watts(max),
            stated: true,
        })
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
    Yaml,
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
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
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
    #[arg(long, value_name = "QUALITY", requires = "calibrate")]
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

fn at_once(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_000) => Ok(number),
        _ => Err("must be between 1 and 1000".into()),
    }
}

fn watts(text: &str) -> Result<f32, String> {
    let watts: f32 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (0.0..=1e6).contains(&watts) {
        return Ok(watts);
    }
    Err("must be between 0 and 1000000".into())
}

/// A factor of at least 1, and not so large that times overflow.
fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if (1.0..=1e6).contains(&factor) {
        return Ok(factor);
    }
    Err("must be between 1 and 1000000".into())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| format!("'{text}' is not a number of seconds"))?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

fn taint(text: &str) -> Result<Taint, String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("'{text}' is not KEY or KEY=VALUE"));
    }
    Ok(Taint {
        key: key.to_owned(),
        value: value.to_owned(),
    })
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not KEY=VALUE")),
    }
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
