//! Metrics, traces and logs of controllers and agents.
//!
//! Owns the name, unit and attributes of every metric and span ([`names`]), how instruments are
//! created from them ([`instruments`]), the metrics of requests as clients see them
//! ([`server_metrics`]), spans ([`trace`]), log lines ([`logs`]), and the export by OTLP and for
//! Prometheus ([`prometheus`]). Code that already has counters observes them with
//! [`instruments`] on [`Telemetry::meter`].
//!
//! Knows nothing of fleets, replicas or engines: callers pass plain names and numbers.
//!
//! Start reading at [`Telemetry::start`].

pub mod clock;
mod exporter;
pub mod instruments;
pub mod logs;
pub mod names;
pub mod prometheus;
pub mod server_metrics;
mod settings;
mod setup;
pub mod trace;

pub use opentelemetry::{KeyValue, metrics};
pub use settings::{SettingsError, TelemetrySettings};
pub use setup::{ServiceIdentity, Telemetry, TelemetryError};
