//! A collector that may be away: what is not delivered is lost, that is said once, and so is its
//! return.

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

/// Whether the collector answered last, shared by all that goes there.
#[derive(Debug, Clone, Default)]
pub(crate) struct CollectorHealth {
    away: Arc<AtomicBool>,
}

impl CollectorHealth {
    /// Takes note of how a delivery went. The SDK is told that all is well: it would complain of
    /// each one.
    fn note(&self, delivered: OTelSdkResult) -> OTelSdkResult {
        match delivered {
            Ok(()) => {
                if self.away.swap(false, Ordering::Relaxed) {
                    tracing::info!("the telemetry collector answers again");
                }
            }
            Err(error) => {
                if !self.away.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        %error,
                        "the telemetry collector does not answer: traces and metrics for it are dropped until it does; all else goes on"
                    );
                }
            }
        }
        Ok(())
    }
}

/// Delivers to a collector that may be away.
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
        f.debug_struct("Patient").finish_non_exhaustive()
    }
}

impl<E: SpanExporter> SpanExporter for ResilientExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.collector.note(self.exporter.export(batch).await)
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
        self.collector.note(self.exporter.export(metrics).await)
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
