//! What the owner of a machine lets the models of the fleet use of it: folders, secrets and servers.

use std::path::PathBuf;

use flotilla_agent::UpstreamSecret;
use flotilla_controller::DEFAULT_MODEL_ROOT;
use flotilla_controller::artifacts::SourceHosts;

/// The folders of an agent or a controller.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ModelRootArgs {
    /// Folder of this machine that the paths of models may lead into (`path` on nodes, `controllerPath` on
    /// controllers). May be repeated.
    #[arg(
        long = "model-root",
        env = "FLOTILLA_MODEL_ROOTS",
        value_name = "DIR",
        value_delimiter = ',',
        default_value = DEFAULT_MODEL_ROOT
    )]
    pub(crate) model_roots: Vec<PathBuf>,
}

/// The secrets of an agent.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct UpstreamSecretArgs {
    /// API key in a file of this machine that models of the engine `upstream` may use by the name NAME
    /// (`options.apiKeySecret`), and the only server that gets it: HOST, or HOST:PORT. May be repeated, also for
    /// further hosts of one secret. The file is read when a model loads.
    #[arg(
        long = "upstream-secret",
        env = "FLOTILLA_UPSTREAM_SECRETS",
        value_name = "NAME=FILE@HOST",
        value_delimiter = ','
    )]
    pub(crate) upstream_secrets: Vec<UpstreamSecret>,
}

/// The servers of a controller.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SourceHostArgs {
    /// Host that the files of models may be fetched from (`url`, `huggingFace`), at whatever address; `*` stands for
    /// every host at public addresses of the Internet. May be repeated. The host of `HF_ENDPOINT` is always one.
    #[arg(
        long = "source-host",
        env = "FLOTILLA_SOURCE_HOSTS",
        value_name = "HOST",
        value_delimiter = ',',
        default_value = "*"
    )]
    source_hosts: Vec<String>,
}

impl SourceHostArgs {
    /// Returns the hosts.
    pub(crate) fn hosts(&self) -> SourceHosts {
        let hosts = SourceHosts::new(&self.source_hosts);
        match std::env::var("HF_ENDPOINT") {
            Ok(endpoint) => hosts.with_host_of(&endpoint),
            Err(_) => hosts,
        }
    }
}
