//! Arguments of `flotilla key`.

use clap::{Subcommand, ValueEnum};
use flotilla_core::{HumanDuration, KeyName, ModelName, TaskName, ZoneName};
use flotilla_identity::keys::Role;

use super::values::duration_between;
use super::{Endpoint, OutputFormat};

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Creates an API key and prints it, once.
    Create(KeyCreateArgs),
    /// Lists API keys, without their secrets.
    List(KeyListArgs),
    /// Revokes API keys: within a second, no controller accepts them any more.
    Revoke(KeyRevokeArgs),
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    /// Requests to models: answers, the list of models, dry runs and feedback.
    Inference,
    /// Reads of the fleet's state, and the page.
    Viewer,
    /// Inference, viewer, and changes of models, tasks, the router, nodes, artifacts and datasets.
    Operator,
    /// Everything.
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Inference => Self::Inference,
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
            RoleArg::Admin => Self::Admin,
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla key create laptop --role admin --url unix:/var/lib/flotilla/controller/admin.sock
  flotilla key create shop-assistant --role inference --tasks support --zones shop --expires 90d

Standard output is the key alone. The fleet stores only a digest of it, so that it is not shown again.")]
pub(crate) struct KeyCreateArgs {
    /// Name that people know the key by.
    pub(crate) name: KeyName,
    /// What the key may do.
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: RoleArg,
    /// Models that may answer the key's requests, whether a request names them or a task chooses them. Only with
    /// `--role inference`. Default: all.
    #[arg(long, value_name = "MODEL,...", value_delimiter = ',')]
    pub(crate) models: Option<Vec<ModelName>>,
    /// Tasks that the key's requests may belong to. Models can still be named: limit them with `--models`. Only with
    /// `--role inference`. Default: all.
    #[arg(long, value_name = "TASK,...", value_delimiter = ',')]
    pub(crate) tasks: Option<Vec<TaskName>>,
    /// Privacy zones that the key's requests are held to. Only with `--role inference`. Default: none, as the tasks
    /// say.
    #[arg(long, value_name = "ZONE,...", value_delimiter = ',')]
    pub(crate) zones: Option<Vec<ZoneName>>,
    /// Time after which the key is not accepted any more, such as 90d: 1m to 3650d. Default: it does not expire.
    #[arg(long, value_name = "DURATION", value_parser = duration_between("1m", "3650d"))]
    pub(crate) expires: Option<HumanDuration>,
    /// Output format. With `table`, the key alone.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  flotilla key list")]
pub(crate) struct KeyListArgs {
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  flotilla key revoke shop-assistant")]
pub(crate) struct KeyRevokeArgs {
    /// Names or ids of the keys.
    #[arg(required = true, value_name = "NAME|ID")]
    pub(crate) keys: Vec<String>,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}
