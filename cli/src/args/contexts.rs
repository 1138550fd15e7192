//! Arguments of `flotilla login` and `flotilla context`.

use std::path::PathBuf;

use clap::Subcommand;

use super::OutputFormat;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla login https://fleet.example --name prod < key.txt
  flotilla login http://10.0.0.1:8080            # prompts for the key

The context is saved in ~/.config/flotilla/config.yaml (FLOTILLA_CONFIG: another file), which only you can read, and
becomes the current one.")]
pub(crate) struct LoginArgs {
    /// URL of a controller's HTTP API.
    pub(crate) url: String,
    /// Name of the context. Default: the host of the URL.
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) name: Option<String>,
    /// File with the API key. Default: standard input, if the fleet requires a key.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// PEM file with further certificate authorities, for https URLs.
    #[arg(long, env = "FLOTILLA_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// Lists the contexts. A star marks the current one.
    #[command(after_help = "Example:
  flotilla context list")]
    List {
        /// Output format. Keys are left out.
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: OutputFormat,
    },
    /// Makes a context the current one.
    #[command(after_help = "Example:
  flotilla context use prod")]
    Use {
        /// Name of the context.
        name: String,
    },
    /// Forgets a context and its key. The key stays valid until it is revoked.
    #[command(after_help = "Example:
  flotilla context delete prod")]
    Delete {
        /// Name of the context.
        name: String,
    },
}
