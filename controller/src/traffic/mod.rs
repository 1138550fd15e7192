//! Traffic through this controller, second by second, for the page and `flotilla top`.
//!
//! It holds the last 15 minutes in memory. Longer series belong to a metrics system, which reads
//! `/metrics` or receives OTLP.
//!
//! The log is the [`RequestListener`] of the request path, which notifies it of every request that
//! ends.

mod node_totals;
mod report;
mod second;
mod totals;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use flotilla_dispatch::{EndedRequest, RequestListener};
use flotilla_telemetry::server_metrics::ServerMetrics;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::fleet::FleetHandle;
use node_totals::NodeTotals;
pub use report::{
    LatencyPercentiles, MeteredEnergy, RequestSummary, TrafficPoint, UsageTotal, UsageTotals,
};
use second::{CurrentSecond, MAX_SUMMARIES};
use totals::RunningTotals;

/// Seconds of history.
const HISTORY_SECONDS: usize = 900;
/// Seconds that a slow reader of [`TrafficLog::subscribe`] may fall behind before it misses some.
const TICK_CAPACITY: usize = 16;

/// The traffic of this controller. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TrafficLog {
    state: Arc<TrafficState>,
}

struct TrafficState {
    metrics: Arc<ServerMetrics>,
    second: Mutex<CurrentSecond>,
    totals: Mutex<RunningTotals>,
    history: Mutex<VecDeque<TrafficPoint>>,
    recent: Mutex<VecDeque<RequestSummary>>,
    ticks: broadcast::Sender<TrafficTick>,
}

/// A finished second.
#[derive(Debug, Clone)]
pub(crate) struct TrafficTick {
    /// Its counters.
    pub(crate) point: Arc<TrafficPoint>,
    /// Its requests, the oldest first, at most [`MAX_SUMMARIES`].
    pub(crate) summaries: Arc<Vec<RequestSummary>>,
}

impl RequestListener for TrafficLog {
    fn request_ended(&self, request: &EndedRequest<'_>) {
        self.state.second.lock().add(request);
        self.state.totals.lock().add(request);
    }
}

impl TrafficLog {
    /// An empty log that reads the requests in flight from `metrics`.
    pub(crate) fn new(metrics: Arc<ServerMetrics>) -> Self {
        let (ticks, _) = broadcast::channel(TICK_CAPACITY);
        Self {
            state: Arc::new(TrafficState {
                metrics,
                second: Mutex::new(CurrentSecond::new()),
                totals: Mutex::new(RunningTotals::new()),
                history: Mutex::default(),
                recent: Mutex::default(),
                ticks,
            }),
        }
    }

    /// Delivers every second as it ends.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<TrafficTick> {
        self.state.ticks.subscribe()
    }

    /// The last [`HISTORY_SECONDS`], the oldest first.
    pub(crate) fn history(&self) -> Vec<TrafficPoint> {
        self.state.history.lock().iter().cloned().collect()
    }

    /// The last summaries, the oldest first.
    pub(crate) fn recent(&self) -> Vec<RequestSummary> {
        self.state.recent.lock().iter().cloned().collect()
    }

    /// Usage since the controller started.
    pub(crate) fn usage(&self) -> UsageTotals {
        self.state.totals.lock().report()
    }

    /// Ends a second every second, until `stop`.
    pub(crate) async fn run(self, fleet: FleetHandle, stop: CancellationToken) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = seconds.tick() => self.finish_second(&fleet),
            }
        }
    }

    fn finish_second(&self, fleet: &FleetHandle) {
        let nodes = NodeTotals::read(fleet);
        let in_flight = self.state.metrics.in_flight();
        let (point, summaries) = self.state.second.lock().finish(in_flight, &nodes);
        {
            let mut history = self.state.history.lock();
            if history.len() == HISTORY_SECONDS {
                history.pop_front();
            }
            history.push_back(point.clone());
        }
        {
            let mut recent = self.state.recent.lock();
            recent.extend(summaries.iter().cloned());
            let excess = recent.len().saturating_sub(MAX_SUMMARIES);
            recent.drain(..excess);
        }
        // Sending fails while there is no subscriber.
        let _ = self.state.ticks.send(TrafficTick {
            point: Arc::new(point),
            summaries: Arc::new(summaries),
        });
    }
}
