//! Exporters that tolerate an unreachable collector: data it does not accept is dropped. Both the loss
//! and the return of the collector are logged once.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};

/// Whether the last export reached the collector. Shared by all exporters of a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct CollectorHealth {
    unreachable: Arc<AtomicBool>,
}

impl CollectorHealth {
    /// Records the result of an export and logs a change. Always returns success, because the SDK
    /// would log every failed export.
    fn record(&self, result: OTelSdkResult) -> OTelSdkResult {
        match result {
            Ok(()) => {
                if self.unreachable.swap(false, Ordering::Relaxed) {
                    tracing::info!("the telemetry collector is reachable again");
                }
            }
            Err(error) => {
                if !self.unreachable.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        %error,
                        "the telemetry collector is unreachable: traces and metrics for it are dropped until it answers"
                    );
                }
            }
        }
        Ok(())
    }
}

/// An exporter whose failures are recorded in [`CollectorHealth`] instead of being returned.
pub(crate) struct ResilientExporter<E> {
    exporter: E,
    collector: CollectorHealth,
}

impl<E> ResilientExporter<E> {
    pub(crate) fn new(exporter: E, collector: CollectorHealth) -> Self {
        Self {
            exporter,
            collector,
        }
    }
}

impl<E> fmt::Debug for ResilientExporter<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResilientExporter").finish_non_exhaustive()
    }
}

impl<E: SpanExporter> SpanExporter for ResilientExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.collector.record(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for ResilientExporter<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.collector.record(self.exporter.export(metrics).await)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
