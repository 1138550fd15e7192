//! Starts and shuts down telemetry.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{MetricExporter, SpanExporter};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;

use crate::exporter::{CollectorHealth, ResilientExporter};
use crate::prometheus::PrometheusRegistry;
use crate::trace::Tracer;
use crate::{SettingsError, TelemetrySettings};

/// Maximum time to export the remaining traces or metrics at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The process that traces and metrics come from.
#[derive(Debug, Clone)]
pub struct ServiceIdentity {
    /// `service.name`, unless `OTEL_SERVICE_NAME` is set.
    pub name: &'static str,
    /// `service.instance.id`: the id of the controller or the name of the node.
    pub instance: String,
    /// Further resource attributes.
    pub attributes: Vec<KeyValue>,
}

/// The error returned when telemetry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// An environment variable has an unsupported value.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An exporter could not be created, for example because its endpoint is not a URL.
    #[error("telemetry cannot be exported: {0}")]
    Exporter(String),
}

/// The telemetry of one controller or agent. Several in one process are independent.
#[derive(Debug, Clone)]
pub struct Telemetry {
    tracer: Tracer,
    tracer_provider: SdkTracerProvider,
    meter_provider: SdkMeterProvider,
    prometheus: PrometheusRegistry,
}

impl Telemetry {
    /// Starts the exporters that `settings` enable. Exporters to a collector need a tokio runtime.
    ///
    /// # Errors
    /// The address of the collector or a certificate is invalid. A collector that does not answer is
    /// not an error.
    pub fn start(
        service: &ServiceIdentity,
        settings: &TelemetrySettings,
    ) -> Result<Self, TelemetryError> {
        let resource = resource(service);
        let collector = CollectorHealth::default();
        let mut tracer_provider = SdkTracerProvider::builder().with_resource(resource.clone());
        if settings.traces {
            let exporter = SpanExporter::builder().with_tonic().build();
            let exporter = exporter.map_err(|error| TelemetryError::Exporter(error.to_string()))?;
            let exporter = ResilientExporter::new(exporter, collector.clone());
            tracer_provider = tracer_provider.with_batch_exporter(exporter);
        }
        let tracer_provider = tracer_provider.build();
        let mut meter_provider = SdkMeterProvider::builder().with_resource(resource);
        if settings.metrics {
            let exporter = MetricExporter::builder().with_tonic().build();
            let exporter = exporter.map_err(|error| TelemetryError::Exporter(error.to_string()))?;
            let exporter = ResilientExporter::new(exporter, collector);
            meter_provider = meter_provider.with_reader(PeriodicReader::builder(exporter).build());
        }
        let prometheus = PrometheusRegistry::default();
        if settings.prometheus {
            let reader = prometheus.reader();
            let reader = reader.map_err(|error| TelemetryError::Exporter(error.to_string()))?;
            meter_provider = meter_provider.with_reader(reader);
        }
        let tracer = settings.traces.then(|| tracer_provider.tracer("flotilla"));
        Ok(Self {
            tracer: Tracer::new(tracer, settings.capture_content),
            tracer_provider,
            meter_provider: meter_provider.build(),
            prometheus,
        })
    }

    /// Returns telemetry that records nothing.
    #[must_use]
    pub fn disabled() -> Self {
        Self {
            tracer: Tracer::new(None, false),
            tracer_provider: SdkTracerProvider::builder().build(),
            meter_provider: SdkMeterProvider::builder().build(),
            prometheus: PrometheusRegistry::default(),
        }
    }

    /// Returns the tracer, which starts spans.
    #[must_use]
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Returns the meter, which creates instruments.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.meter_provider.meter("flotilla")
    }

    /// Returns the metrics for Prometheus.
    #[must_use]
    pub fn prometheus(&self) -> PrometheusRegistry {
        self.prometheus.clone()
    }

    /// Exports the remaining data and stops. Data that an unreachable collector does not accept within
    /// a few seconds is lost.
    pub async fn shutdown(self) {
        let flushed = tokio::task::spawn_blocking(move || {
            // Errors are ignored: an unreachable collector is already in the log.
            let _ = self.tracer_provider.shutdown_with_timeout(FLUSH_TIMEOUT);
            let _ = self.meter_provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        });
        let _ = tokio::time::timeout(2 * FLUSH_TIMEOUT, flushed).await;
    }
}

/// Returns the attributes that identify the process in every span and metric.
fn resource(service: &ServiceIdentity) -> Resource {
    let name = std::env::var("OTEL_SERVICE_NAME")
        .ok()
        .filter(|name| !name.is_empty());
    let name = name.map_or(Cow::Borrowed(service.name), Cow::Owned);
    Resource::builder()
        .with_service_name(name)
        .with_attribute(KeyValue::new("service.namespace", "flotilla"))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new(
            "service.instance.id",
            service.instance.clone(),
        ))
        .with_attributes(service.attributes.clone())
        .build()
}
