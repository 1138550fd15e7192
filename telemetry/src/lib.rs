//! Flotilla's telemetry: the name, unit and attributes of every metric and span in one place, and
//! how they leave the process: by OTLP and for Prometheus.
//!
//! [`names`] is the table; what counts is in [`server_metrics`] (requests as clients see them) and,
//! of [`instruments`], in
//! [`Telemetry::meter`] for whoever has counters already. [`trace`] is the way of a request as
//! spans: a request that is not sampled costs one look at a thread-local.
//!
//! Start reading at [`Telemetry::start`].

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
