//! Counts every request that ends.

use std::sync::Arc;
use std::time::Duration;

use flotilla_core::dataset::DatasetRecord;
use flotilla_core::energy::{EnergyUsage, Grid};
use flotilla_core::routing::{RequestOutcome, RoutingDecision};
use flotilla_telemetry::server_metrics::{DropReason, ServerMetrics};

use crate::DatasetSink;
use crate::dataset_sink::NoDatasets;
use crate::request_context::RequestContext;

/// A request that has ended.
#[derive(Debug, Clone, Copy)]
pub struct EndedRequest<'a> {
    /// The id of the decision record.
    pub id: &'a str,
    /// When the decision was recorded, in milliseconds since 1970.
    pub at: u64,
    /// The decision about the request.
    pub decision: &'a RoutingDecision,
    /// How the request ended.
    pub outcome: &'a RequestOutcome,
    /// The energy that the request took on all replicas.
    pub energy: EnergyUsage,
    /// The mean time of an output token after the first.
    pub time_per_token: Option<Duration>,
}

/// Is notified of every request that ends, such as the traffic log behind the page.
pub trait RequestListener: Send + Sync {
    /// Called once for each request, from the request's own task: it must not block.
    fn request_ended(&self, request: &EndedRequest<'_>);
}

/// Counts requests in the server metrics, notifies a listener, and passes on what tasks learn from. Cheap to
/// clone.
#[derive(Clone)]
pub struct RequestObserver {
    pub(crate) metrics: Arc<ServerMetrics>,
    pub(crate) listener: Arc<dyn RequestListener>,
    pub(crate) datasets: Arc<dyn DatasetSink>,
}

/// A listener that ignores every request.
struct NoListener;

impl RequestListener for NoListener {
    fn request_ended(&self, _: &EndedRequest<'_>) {}
}

impl RequestObserver {
    /// Creates an observer that counts in `metrics` and notifies `listener`. Nothing is kept in datasets.
    #[must_use]
    pub fn new(metrics: Arc<ServerMetrics>, listener: Arc<dyn RequestListener>) -> Self {
        Self {
            metrics,
            listener,
            datasets: Arc::new(NoDatasets),
        }
    }

    /// Passes the records that tasks learn from on to `datasets`.
    #[must_use]
    pub fn with_datasets(self, datasets: Arc<dyn DatasetSink>) -> Self {
        Self { datasets, ..self }
    }

    /// Passes a record on to the datasets, and counts it if it is dropped. Returns whether it was taken.
    pub(crate) fn keep_record(&self, record: DatasetRecord, keep: u32) -> bool {
        let task = record.task.clone();
        let is_taken = self.datasets.keep(record, keep);
        if !is_taken {
            self.metrics
                .record_dropped_record(task.as_str(), DropReason::QueueFull);
        }
        is_taken
    }

    /// Creates an observer that only counts in `metrics`.
    #[must_use]
    pub fn metrics_only(metrics: Arc<ServerMetrics>) -> Self {
        Self::new(metrics, Arc::new(NoListener))
    }

    /// Starts the context of a request that has arrived. `key` is the fairness key of its client; `grid`
    /// has the price and carbon intensity of its energy.
    pub(crate) fn start_request(
        &self,
        operation: &'static str,
        key: u64,
        grid: Arc<Grid>,
    ) -> Arc<RequestContext> {
        Arc::new(RequestContext::new(
            operation,
            key,
            grid,
            self.metrics.clone(),
        ))
    }
}
