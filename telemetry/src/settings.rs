//! What the environment says of telemetry, in OpenTelemetry's own variables.
//!
//! Read here is what decides whether and how something is exported. The rest (endpoints, headers,
//! timeouts, intervals, batch sizes, samplers, resource attributes) is read by the SDK.

/// What is exported, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// Traces go to a collector.
    pub traces: bool,
    /// Metrics go to a collector.
    pub metrics: bool,
    /// Metrics can be scraped.
    pub prometheus: bool,
    /// Spans hold what was asked and answered. Never that of requests held to privacy zones.
    pub capture_content: bool,
}

/// What cannot be done that the environment asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value}: {remedy}")]
pub struct SettingsError {
    pub variable: &'static str,
    pub value: String,
    pub remedy: &'static str,
}

impl TelemetrySettings {
    /// Nothing leaves the process and nothing is recorded (`OTEL_SDK_DISABLED=true`).
    pub const DISABLED: Self = Self {
        traces: false,
        metrics: false,
        prometheus: false,
        capture_content: false,
    };

    /// What the process's environment says.
    ///
    /// # Errors
    /// A variable asks for what this build has not.
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::read(|name| std::env::var(name).ok())
    }

    /// What the variables say that `get` looks up. Nothing is sent anywhere unless an endpoint or an
    /// exporter is named: most nodes have no collector beside them.
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
        let endpoint = |own: &str| {
            get("OTEL_EXPORTER_OTLP_ENDPOINT")
                .or_else(|| get(own))
                .is_some()
        };
        let default = |own: &str, prometheus: bool| {
            let mut exporters = Vec::new();
            if endpoint(own) {
                exporters.push("otlp");
            }
            if prometheus {
                exporters.push("prometheus");
            }
            exporters.join(",")
        };
        let traces = get("OTEL_TRACES_EXPORTER")
            .unwrap_or_else(|| default("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", false));
        let metrics = get("OTEL_METRICS_EXPORTER")
            .unwrap_or_else(|| default("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", true));
        let known = |variable, list: &str, all: &[&str], remedy| {
            let names: Vec<_> = list
                .split(',')
                .map(str::trim)
                .filter(|n| !n.is_empty())
                .collect();
            match names.iter().find(|name| !all.contains(name)) {
                Some(_) => Err(SettingsError {
                    variable,
                    value: list.to_owned(),
                    remedy,
                }),
                None => Ok(names.into_iter().map(str::to_owned).collect::<Vec<_>>()),
            }
        };
        let traces = known(
            "OTEL_TRACES_EXPORTER",
            &traces,
            &["otlp", "none"],
            "use otlp or none",
        )?;
        let metrics = known(
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
                let remedy = "only grpc is spoken: point it at the collector's port 4317";
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
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn nothing_is_sent_until_it_is_known_where_to() {
        let quiet = read(&[]).unwrap();
        assert_ne!(quiet, TelemetrySettings::DISABLED);
        assert!(quiet.prometheus && !quiet.traces && !quiet.metrics);
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
    fn what_cannot_be_done_is_said_with_what_to_do() {
        let error = read(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).unwrap_err();
        assert!(error.to_string().contains("4317"), "{error}");
        assert!(read(&[("OTEL_TRACES_EXPORTER", "zipkin")]).is_err());
    }
}
