//! Arguments of `flotilla audit`.

use flotilla_core::HumanDuration;

use super::values::duration_between;
use super::{Endpoint, OutputFormat};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  flotilla audit
  flotilla audit --since 24h -o json

Each controller keeps its own records in its data directory, for as long as 64 MiB hold them. The last 10000 of all
controllers are shown.")]
pub(crate) struct AuditArgs {
    /// How far back to look, such as 24h: 1s to 3650d.
    #[arg(long, value_name = "DURATION", default_value = "1h",
        value_parser = duration_between("1s", "3650d"))]
    pub(crate) since: HumanDuration,
    /// Output format.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: OutputFormat,
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
}
