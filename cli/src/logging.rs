//! Logging to standard error.

use std::io::IsTerminal;

use flotilla_telemetry::logs::LogEventFormat;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::{Command, LogFormat};

/// Levels of libraries that log too much for a person. The user's filter overrides them.
const LIBRARY_LEVELS: &[&str] = &[
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
    // The error of the connection says the same.
    "rustls_platform_verifier=off",
    // It describes its buffers whenever a computation is planned anew.
    "llama-cpp-2=warn",
    "tokenizers=error",
    // It warns of each character that a tokenizer does not have.
    "toktrie_hf_tokenizers=error",
];

/// Starts logging. An empty `filter` selects the command's default: `info` for `controller` and
/// `agent`, `error` for all others.
pub(crate) fn start(filter: &str, format: LogFormat, command: &Command) {
    let level = match (filter, command) {
        ("", Command::Controller(_) | Command::Agent(_) | Command::Runner(_)) => "info",
        ("", _) => "error",
        (filter, _) => filter,
    };
    let library_levels = LIBRARY_LEVELS.join(",");
    // The last directive for a target wins: the user's.
    let (filter, parse_error) = match EnvFilter::try_new(format!("{library_levels},{level}")) {
        Ok(filter) => (filter, None),
        Err(error) => (
            EnvFilter::new(format!("{library_levels},info")),
            Some(error),
        ),
    };
    let lines = match (format, command) {
        // The agent reads the lines of its runners.
        (_, Command::Runner(_)) | (LogFormat::Json, _) => LogEventFormat::Json,
        (LogFormat::Text, _) => LogEventFormat::Text,
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(matches!(format, LogFormat::Text) && std::io::stderr().is_terminal())
        .event_format(lines)
        // Whoever reads the log may have left. The report of it would go there, too, and panic.
        .log_internal_errors(false);
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
    if let Some(error) = parse_error {
        tracing::warn!(%error, "cannot parse the filter of --log; logging at level info");
    }
}
