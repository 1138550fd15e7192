//! Arguments of the commands about who belongs to a fleet: `secret`, `token` and `node`.

use std::path::PathBuf;

use clap::Subcommand;
use flotilla_core::{HumanDuration, NodeName, ZoneName};

use super::values::{duration_between, parse_label};
use super::{Endpoint, OutputFormat};

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Creates the file with a new secret for a fleet, which only its owner can read. It is made once: every controller
    /// of the fleet is started with a copy of it.
    #[command(after_help = "Example:
  flotilla secret create /etc/flotilla/secret")]
    Create {
        /// The file. It must not exist yet.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Creates a join token, with which an agent enrols its node in the fleet, and prints it.
    Create(TokenCreateArgs),
    /// Lists the join tokens.
    List(TokenListArgs),
    /// Deletes a join token. The nodes that have enrolled with it stay.
    #[command(after_help = "Example:
  flotilla token delete 3f2a91c07b")]
    Delete(TokenDeleteArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla token create > token
  flotilla token create --zone clinic --label site=north --uses 20 --ttl 8h
  flotilla token create --node shop-17      # to enrol it again, or another machine in its place")]
pub(crate) struct TokenCreateArgs {
    /// Name of the node that the token is for. It may replace the machine that has the name, and lets a revoked node
    /// back in. Default: any name that no other node has.
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<NodeName>,
    /// Privacy zone of the nodes that enrol with the token. May be repeated.
    #[arg(long = "zone", value_name = "NAME")]
    pub(crate) zones: Vec<ZoneName>,
    /// Protected label of the nodes that enrol with the token: their agents cannot set it. May be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub(crate) labels: Vec<(String, String)>,
    /// How long nodes can enrol with the token, such as 30m or 7d: 1s to 365d.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration_between("1s", "365d"))]
    pub(crate) ttl: HumanDuration,
    /// How many nodes can enrol with the token, 1 to 100000.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) uses: u32,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TokenListArgs {
    /// Format of the output.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TokenDeleteArgs {
    /// Id of the token.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Revokes the enrolment of nodes: their links are cut, and they cannot come back before they enrol anew with a
    /// token that is made for them.
    #[command(after_help = "Example:
  flotilla node revoke shop-17")]
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct RevokeArgs {
    /// Names of the nodes.
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}

/// TLS of a controller.
#[derive(Debug, clap::Args)]
pub(crate) struct TlsArgs {
    /// File with the fleet's secret, which `flotilla secret create` makes and all controllers share. Turns TLS on for
    /// both ports: agents need a join token then.
    #[arg(long, env = "FLOTILLA_SECRET_FILE", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// PEM file with a certificate of an outside PKI for the HTTP API, followed by those of intermediate authorities.
    /// Read again when it changes. Default: with `--secret-file`, a certificate of the fleet's own authority.
    #[arg(
        long,
        env = "FLOTILLA_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,
    /// PEM file with the private key of `--tls-cert`.
    #[arg(
        long,
        env = "FLOTILLA_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,
    /// How long the certificates of nodes and controllers are valid, such as 7d: 1m to 90d. They are renewed at two
    /// thirds of it.
    #[arg(long, env = "FLOTILLA_CERTIFICATE_LIFE", value_name = "DURATION", default_value = "7d",
        value_parser = duration_between("1m", "90d"))]
    certificate_life: HumanDuration,
    /// Lets other machines reach ports without TLS. Whoever reaches them can read and change everything.
    #[arg(long, env = "FLOTILLA_INSECURE")]
    insecure: bool,
}

impl TlsArgs {
    /// Returns the part of the controller's configuration.
    pub(crate) fn settings(self) -> flotilla_controller::TlsSettings {
        let outside = self.tls_cert.zip(self.tls_key);
        flotilla_controller::TlsSettings {
            secret_file: self.secret_file,
            outside: outside.map(
                |(certificate, key)| flotilla_controller::OutsideCertificate { certificate, key },
            ),
            certificate_life: self.certificate_life.0,
            insecure: self.insecure,
        }
    }
}
