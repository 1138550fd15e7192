//! What is logged, and where: standard error.

use std::io::IsTerminal;

use flotilla_telemetry::logs::LogLines;
use tracing_subscriber::EnvFilter;

use crate::args::{Command, LogFormat};

/// Levels of the libraries under us, unless the filter says otherwise: they tell more than a
/// person wants to read.
const QUIET: &[&str] = &[
    "mistralrs=error",
    "mistralrs_core=error",
    "mistralrs_quant=error",
    "h2=warn",
    "opentelemetry=error",
    "opentelemetry_sdk=error",
    "opentelemetry-otlp=error",
    "hyper=warn",
    "hyper_util=warn",
    "reqwest=warn",
    "tokenizers=error",
];

/// Starts logging. An empty `filter` is the command's default: servers tell what happens,
/// the others only what is wrong.
pub(crate) fn start(filter: &str, format: LogFormat, command: &Command) {
    let level = match (filter, command) {
        ("", Command::Controller(_) | Command::Agent(_)) => "info",
        ("", _) => "error",
        (filter, _) => filter,
    };
    let quiet = QUIET.join(",");
    // What the user writes comes last and wins.
    let (filter, fault) = match EnvFilter::try_new(format!("{quiet},{level}")) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(format!("{quiet},info")), Some(error)),
    };
    let lines = match format {
        LogFormat::Text => LogLines::Text,
        LogFormat::Json => LogLines::Json,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .event_format(lines)
        .init();
    if let Some(error) = fault {
        tracing::warn!(%error, "--log is not a filter: logging at level info");
    }
}
