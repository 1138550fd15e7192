//! Starting and ending telemetry.

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

/// Longest that the last data is waited for.
const FLUSH: Duration = Duration::from_secs(2);

/// Who tells.
#[derive(Debug, Clone)]
pub struct ServiceIdentity {
    /// `service.name`, unless `OTEL_SERVICE_NAME` says otherwise.
    pub name: &'static str,
    /// `service.instance.id`: the controller's id, or the node's name.
    pub instance: String,
    /// What else there is to say of it.
    pub attributes: Vec<KeyValue>,
}

/// Why telemetry does not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("telemetry cannot be exported: {0}")]
    Exporter(String),
}

/// The telemetry of one controller or agent: two of them in one process do not mix.
#[derive(Debug, Clone)]
pub struct Telemetry {
    tracer: Tracer,
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    exposition: PrometheusRegistry,
}

impl Telemetry {
    /// Starts what the settings say. Within a tokio runtime where something goes to a collector.
    ///
    /// # Errors
    /// A collector's address or a certificate makes no sense. One that does not answer is no error.
    pub fn start(
        service: &ServiceIdentity,
        settings: &TelemetrySettings,
    ) -> Result<Self, TelemetryError> {
        let resource = resource(service);
        let collector = CollectorHealth::default();
        let mut tracers = SdkTracerProvider::builder().with_resource(resource.clone());
        if settings.traces {
            let exporter = SpanExporter::builder().with_tonic().build();
            let exporter = exporter.map_err(|error| TelemetryError::Exporter(error.to_string()))?;
            tracers =
                tracers.with_batch_exporter(ResilientExporter::new(exporter, collector.clone()));
        }
        let tracers = tracers.build();
        let mut meters = SdkMeterProvider::builder().with_resource(resource);
        if settings.metrics {
            let exporter = MetricExporter::builder().with_tonic().build();
            let exporter = exporter.map_err(|error| TelemetryError::Exporter(error.to_string()))?;
            let exporter = ResilientExporter::new(exporter, collector);
            meters = meters.with_reader(PeriodicReader::builder(exporter).build());
        }
        let exposition = PrometheusRegistry::default();
        if settings.prometheus {
            let reader = exposition.reader();
            let reader = reader.map_err(|error| TelemetryError::Exporter(error.to_string()))?;
            meters = meters.with_reader(reader);
        }
        let tracer = settings.traces.then(|| tracers.tracer("flotilla"));
        Ok(Self {
            tracer: Tracer::new(tracer, settings.capture_content),
            tracers,
            meters: meters.build(),
            exposition,
        })
    }

    /// Telemetry that records nothing.
    #[must_use]
    pub fn disabled() -> Self {
        Self {
            tracer: Tracer::new(None, false),
            tracers: SdkTracerProvider::builder().build(),
            meters: SdkMeterProvider::builder().build(),
            exposition: PrometheusRegistry::default(),
        }
    }

    /// What makes spans.
    #[must_use]
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// What makes instruments.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.meters.meter("flotilla")
    }

    /// The metrics, for Prometheus.
    #[must_use]
    pub fn prometheus(&self) -> PrometheusRegistry {
        self.exposition.clone()
    }

    /// Sends what is left and ends. What a collector that is away does not take is lost.
    pub async fn shutdown(self) {
        let flushed = tokio::task::spawn_blocking(move || {
            // Those who are away were told of.
            let _ = self.tracers.shutdown_with_timeout(FLUSH);
            let _ = self.meters.shutdown_with_timeout(FLUSH);
        });
        let _ = tokio::time::timeout(2 * FLUSH, flushed).await;
    }
}

/// What every span and metric says of its origin.
fn resource(service: &ServiceIdentity) -> Resource {
    let named = std::env::var("OTEL_SERVICE_NAME")
        .ok()
        .filter(|name| !name.is_empty());
    let name = named.map_or(Cow::Borrowed(service.name), Cow::Owned);
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
