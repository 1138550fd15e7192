//! The fleet that a command talks to.

use std::path::PathBuf;

/// The fleet that a command talks to. What is not given comes from the context.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Endpoint {
    /// URL of a controller's HTTP API, or `unix:PATH` of the admin socket in a controller's data directory, which
    /// needs no key. Default: that of the context, else http://127.0.0.1:8080.
    #[arg(long, env = "FLOTILLA_URL", hide_env_values = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Context of `flotilla login` to use. Default: the current one, unless `--url` is given.
    #[arg(long, env = "FLOTILLA_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// API key. Prefer the environment variable or `--key-file`: other users of the machine can read the command
    /// line. Default: that of the context, unless `--url` is given.
    #[arg(
        long,
        env = "FLOTILLA_API_KEY",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub(crate) key: Option<String>,
    /// File with the API key, which takes precedence over `--key`.
    #[arg(long, env = "FLOTILLA_API_KEY_FILE", value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// PEM file with further certificate authorities, for https URLs.
    #[arg(long, env = "FLOTILLA_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
}
