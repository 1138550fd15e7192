//! Reads OpenTelemetry's environment variables.
//!
//! This module reads the variables that decide what is exported and how. The SDK reads the others:
//! endpoints, headers, timeouts, intervals, batch sizes, samplers and resource attributes.

/// What is exported, and how. Returned by [`TelemetrySettings::from_env`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// Whether traces are sent to a collector.
    pub traces: bool,
    /// Whether metrics are sent to a collector.
    pub metrics: bool,
    /// Whether Prometheus can scrape metrics.
    pub prometheus: bool,
    /// Whether spans record prompts and answers. Those of requests with a privacy zone are never
    /// recorded.
    pub capture_content: bool,
}

/// The error for an environment variable with an unsupported value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value}: {remedy}")]
pub struct SettingsError {
    /// Name of the variable.
    pub variable: &'static str,
    /// Its value.
    pub value: String,
    /// What the operator can do.
    pub remedy: &'static str,
}

impl TelemetrySettings {
    /// Nothing is recorded or exported (`OTEL_SDK_DISABLED=true`).
    pub const DISABLED: Self = Self {
        traces: false,
        metrics: false,
        prometheus: false,
        capture_content: false,
    };

    /// Reads the environment of the process.
    ///
    /// # Errors
    /// A variable has a value that Flotilla does not support.
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Reads the variables that `get` looks up. Without an endpoint or exporter nothing is sent,
    /// because most nodes have no collector nearby; OpenTelemetry's default would be `localhost`.
    fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let get = |name: &str| {
            get(name)
                .map(|v| v.trim().to_owned())
                .filter(|v| !v.is_empty())
        };
        let is_true = |name: &str| get(name).is_some_and(|v| v.eq_ignore_ascii_case("true"));
        if is_true("OTEL_SDK_DISABLED") {
            return Ok(Self::DISABLED);
        }
        let has_endpoint = |signal_variable: &str| {
            get("OTEL_EXPORTER_OTLP_ENDPOINT")
                .or_else(|| get(signal_variable))
                .is_some()
        };
        let default_exporters = |signal_variable: &str, prometheus: bool| {
            let mut exporters = Vec::new();
            if has_endpoint(signal_variable) {
                exporters.push("otlp");
            }
            if prometheus {
                exporters.push("prometheus");
            }
            exporters.join(",")
        };
        let traces = get("OTEL_TRACES_EXPORTER")
            .unwrap_or_else(|| default_exporters("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", false));
        let metrics = get("OTEL_METRICS_EXPORTER")
            .unwrap_or_else(|| default_exporters("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", true));
        let parse_list = |variable, list: &str, supported: &[&str], remedy| {
            let names: Vec<_> = list
                .split(',')
                .map(str::trim)
                .filter(|n| !n.is_empty())
                .collect();
            match names.iter().find(|name| !supported.contains(name)) {
                Some(_) => Err(SettingsError {
                    variable,
                    value: list.to_owned(),
                    remedy,
                }),
                None => Ok(names.into_iter().map(str::to_owned).collect::<Vec<_>>()),
            }
        };
        let traces = parse_list(
            "OTEL_TRACES_EXPORTER",
            &traces,
            &["otlp", "none"],
            "use otlp or none",
        )?;
        let metrics = parse_list(
            "OTEL_METRICS_EXPORTER",
            &metrics,
            &["otlp", "prometheus", "none"],
            "use otlp, prometheus (or both, with a comma), or none",
        )?;
        for variable in [
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
        ] {
            if let Some(value) = get(variable).filter(|value| value != "grpc") {
                let remedy = "only grpc is supported: use the collector's gRPC port, 4317";
                return Err(SettingsError {
                    variable,
                    value,
                    remedy,
                });
            }
        }
        let has = |list: &[String], name| list.iter().any(|n| n == name);
        Ok(Self {
            traces: has(&traces, "otlp"),
            metrics: has(&metrics, "otlp"),
            prometheus: has(&metrics, "prometheus"),
            capture_content: is_true("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<TelemetrySettings, SettingsError> {
        TelemetrySettings::read(|name| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_is_sent_without_an_endpoint() {
        let default = read(&[]).unwrap();
        assert_ne!(default, TelemetrySettings::DISABLED);
        assert!(default.prometheus && !default.traces && !default.metrics);
        let all = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317")]).unwrap();
        assert!(all.traces && all.metrics && all.prometheus);
        let traces = read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c:4317")]).unwrap();
        assert!(traces.traces && !traces.metrics);
        let named = read(&[
            ("OTEL_METRICS_EXPORTER", "otlp"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ]);
        let named = named.unwrap();
        assert!(named.metrics && !named.traces && !named.prometheus && !named.capture_content);
        assert_eq!(
            read(&[("OTEL_SDK_DISABLED", "TRUE")]).unwrap(),
            TelemetrySettings::DISABLED
        );
    }

    #[test]
    fn unsupported_value_is_an_error_with_a_remedy() {
        let error = read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).unwrap_err();
        assert!(error.to_string().contains("4317"), "{error}");
        assert!(read(&[("OTEL_TRACES_EXPORTER", "zipkin")]).is_err());
    }
}
