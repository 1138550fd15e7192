//! What goes through this controller, second by second: the page's view of it. Metrics are for those
//! who keep time series; this is the last quarter of an hour, kept here.

mod told;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use flotilla_core::energy::{EnergySources, EnergyUsage};
use flotilla_core::routing::{OutcomeStatus, RequestOutcome, RoutingDecision};
use flotilla_telemetry::front::ServerMetrics;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::decisions::unix_millis;
use crate::fleet::FleetHandle;
pub use told::{
    LatencyPercentiles, MeteredEnergy, RequestSummary, TrafficPoint, UsageTotal, UsageTotals,
};

/// Seconds that are kept.
const KEPT: usize = 900;
/// Requests of a second that are told one by one.
const BRIEFS: usize = 50;
/// Names that totals are kept of, of each sort.
const NAMES: usize = 1_000;
/// Longest time that percentiles tell apart, in microseconds: ten minutes.
const LONGEST: u64 = 600_000_000;

/// What goes through. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TrafficLog {
    inner: Arc<TrafficState>,
}

struct TrafficState {
    front: Arc<ServerMetrics>,
    second: Mutex<CurrentSecond>,
    totals: Mutex<RunningTotals>,
    past: Mutex<VecDeque<TrafficPoint>>,
    recent: Mutex<VecDeque<RequestSummary>>,
    ticks: broadcast::Sender<TrafficTick>,
}

/// The second that is under way.
struct CurrentSecond {
    requests: u64,
    errors: u64,
    prompt_tokens: u64,
    output_tokens: u64,
    energy: MeteredEnergy,
    first_token: Histogram<u64>,
    per_token: Histogram<u64>,
    total: Histogram<u64>,
    briefs: Vec<RequestSummary>,
    skipped: u64,
}

#[derive(Default)]
struct RunningTotals {
    since: u64,
    models: BTreeMap<String, UsageTotal>,
    tasks: BTreeMap<String, UsageTotal>,
    nodes: BTreeMap<String, UsageTotal>,
}

/// What a second brought.
#[derive(Debug, Clone)]
pub(crate) struct TrafficTick {
    pub(crate) point: Arc<TrafficPoint>,
    pub(crate) briefs: Arc<Vec<RequestSummary>>,
}

impl CurrentSecond {
    fn new() -> Self {
        let histogram = || {
            let mut histogram = Histogram::new_with_bounds(1, LONGEST, 3)
                // The bounds are constants that fit each other.
                .unwrap_or_else(|_| unreachable!("bounds of a histogram"));
            histogram.auto(false);
            histogram
        };
        Self {
            requests: 0,
            errors: 0,
            prompt_tokens: 0,
            output_tokens: 0,
            energy: MeteredEnergy::default(),
            first_token: histogram(),
            per_token: histogram(),
            total: histogram(),
            briefs: Vec::new(),
            skipped: 0,
        }
    }

    fn clear(&mut self) {
        self.first_token.reset();
        self.per_token.reset();
        self.total.reset();
        (self.requests, self.errors, self.skipped) = (0, 0, 0);
        (self.prompt_tokens, self.output_tokens) = (0, 0);
        self.energy = MeteredEnergy::default();
    }
}

fn percentiles(histogram: &Histogram<u64>) -> Option<LatencyPercentiles> {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    (!histogram.is_empty()).then(|| LatencyPercentiles {
        p50: at(0.5),
        p95: at(0.95),
        p99: at(0.99),
    })
}

/// A request as it is counted.
pub(crate) struct EndedRequest<'a> {
    pub(crate) id: &'a str,
    pub(crate) at: u64,
    pub(crate) decision: &'a RoutingDecision,
    pub(crate) outcome: &'a RequestOutcome,
    pub(crate) spent: EnergyUsage,
    pub(crate) per_token: Option<Duration>,
}

impl TrafficLog {
    pub(crate) fn new(front: Arc<ServerMetrics>) -> Self {
        let (ticks, _) = broadcast::channel(16);
        Self {
            inner: Arc::new(TrafficState {
                front,
                second: Mutex::new(CurrentSecond::new()),
                totals: Mutex::new(RunningTotals {
                    since: unix_millis(),
                    ..RunningTotals::default()
                }),
                past: Mutex::default(),
                recent: Mutex::default(),
                ticks,
            }),
        }
    }

    /// A request has ended.
    pub(crate) fn ended(&self, ended: &EndedRequest<'_>) {
        let outcome = ended.outcome;
        let failed = u64::from(outcome.end == OutcomeStatus::Failed);
        let prompt = u64::from(outcome.prompt_tokens.unwrap_or(0));
        let output = u64::from(outcome.completion_tokens.unwrap_or(0));
        {
            let mut second = self.inner.second.lock();
            second.requests += 1;
            second.errors += failed;
            second.prompt_tokens += prompt;
            second.output_tokens += output;
            second.energy.add(&ended.spent);
            if outcome.end == OutcomeStatus::Answered {
                let micros = |millis: f64| (millis * 1e3) as u64;
                second.total.saturating_record(micros(outcome.total_ms));
                if let Some(first) = outcome.first_token_ms {
                    second.first_token.saturating_record(micros(first));
                }
                if let Some(per_token) = ended.per_token {
                    let micros = per_token.as_micros() as u64;
                    second.per_token.saturating_record(micros);
                }
            }
            if second.briefs.len() < BRIEFS {
                second.briefs.push(brief(ended));
            } else {
                second.skipped += 1;
            }
        }
        let decision = ended.decision;
        let mut totals = self.inner.totals.lock();
        let totals = &mut *totals;
        for (names, name) in [
            (
                &mut totals.models,
                decision.model.as_ref().map(|name| name.as_str()),
            ),
            (
                &mut totals.tasks,
                decision.task.as_ref().map(|name| name.as_str()),
            ),
            (
                &mut totals.nodes,
                decision.node.as_ref().map(|name| name.as_str()),
            ),
        ] {
            let Some(name) = name else { continue };
            if !names.contains_key(name) {
                if names.len() >= NAMES {
                    continue;
                }
                let total = UsageTotal {
                    name: name.to_owned(),
                    ..UsageTotal::default()
                };
                names.insert(name.to_owned(), total);
            }
            if let Some(total) = names.get_mut(name) {
                total.requests += 1;
                total.errors += failed;
                total.prompt_tokens += prompt;
                total.output_tokens += output;
                total.energy.add(&ended.spent);
            }
        }
    }

    /// What every second will bring.
    pub(crate) fn follow(&self) -> broadcast::Receiver<TrafficTick> {
        self.inner.ticks.subscribe()
    }

    /// The last quarter of an hour.
    pub(crate) fn past(&self) -> Vec<TrafficPoint> {
        self.inner.past.lock().iter().cloned().collect()
    }

    /// The last requests that were told one by one.
    pub(crate) fn recent(&self) -> Vec<RequestSummary> {
        self.inner.recent.lock().iter().cloned().collect()
    }

    /// What was done since the controller started.
    pub(crate) fn usage(&self) -> UsageTotals {
        let totals = self.inner.totals.lock();
        let list = |names: &BTreeMap<String, UsageTotal>| names.values().cloned().collect();
        UsageTotals {
            since: totals.since,
            models: list(&totals.models),
            tasks: list(&totals.tasks),
            nodes: list(&totals.nodes),
        }
    }

    /// Ends every second, until `stop`.
    pub(crate) async fn run(self, fleet: FleetHandle, stop: CancellationToken) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = seconds.tick() => self.tick(&fleet),
            }
        }
    }

    fn tick(&self, fleet: &FleetHandle) {
        let now = now(fleet);
        let (point, mut briefs, skipped) = {
            let mut second = self.inner.second.lock();
            let point = TrafficPoint {
                at: unix_millis(),
                requests: second.requests,
                errors: second.errors,
                prompt_tokens: second.prompt_tokens,
                output_tokens: second.output_tokens,
                in_flight: self.inner.front.in_flight(),
                queued: now.queued,
                first_token_ms: percentiles(&second.first_token),
                per_token_ms: percentiles(&second.per_token),
                total_ms: percentiles(&second.total),
                energy: second.energy,
                watts: now.watts,
                estimated_watts: now.estimated_watts,
            };
            let (briefs, skipped) = (std::mem::take(&mut second.briefs), second.skipped);
            second.clear();
            (point, briefs, skipped)
        };
        if let Some(first) = briefs.first_mut() {
            first.skipped = skipped;
        }
        {
            let mut past = self.inner.past.lock();
            if past.len() == KEPT {
                past.pop_front();
            }
            past.push_back(point.clone());
        }
        {
            let mut recent = self.inner.recent.lock();
            recent.extend(briefs.iter().cloned());
            let over = recent.len().saturating_sub(BRIEFS);
            recent.drain(..over);
        }
        // Nobody may be looking.
        let _ = self.inner.ticks.send(TrafficTick {
            point: Arc::new(point),
            briefs: Arc::new(briefs),
        });
    }
}

/// What nodes say at the moment.
struct NodeTotals {
    queued: u64,
    watts: Option<f64>,
    estimated_watts: f64,
}

fn now(fleet: &FleetHandle) -> NodeTotals {
    let view = fleet.view();
    let waiting = view.models.values().map(|model| u64::from(model.waiting));
    let mut now = NodeTotals {
        queued: waiting.sum(),
        watts: None,
        estimated_watts: 0.0,
    };
    for node in view.nodes.values().filter(|node| node.here) {
        let report = node.report.load();
        let queued = report.models.iter().filter_map(|model| model.counters);
        now.queued += queued
            .map(|counters| u64::from(counters.queued))
            .sum::<u64>();
        if let Some(energy) = &report.energy {
            let watts = f64::from(energy.watts);
            now.watts = Some(now.watts.unwrap_or(0.0) + watts);
            if !EnergySources::from_bits(energy.sources).is_measured() {
                now.estimated_watts += watts;
            }
        }
    }
    now
}

fn brief(ended: &EndedRequest<'_>) -> RequestSummary {
    let (decision, outcome) = (ended.decision, ended.outcome);
    RequestSummary {
        id: ended.id.to_owned(),
        at: ended.at,
        requested: decision.requested.clone(),
        task: decision.task.as_ref().map(ToString::to_string),
        model: decision.model.as_ref().map(ToString::to_string),
        node: decision.node.as_ref().map(ToString::to_string),
        end: outcome.end,
        error: outcome.error.clone(),
        first_token_ms: outcome.first_token_ms,
        total_ms: outcome.total_ms,
        completion_tokens: outcome.completion_tokens,
        joules: outcome.joules.map(|joules| f64::from(joules.0)),
        joules_source: outcome.joules_source.map(|sources| sources.to_string()),
        tiers: decision.tiers.len(),
        hedged: !decision.hedges.is_empty(),
        candidates: decision.candidates.len(),
        rejected: decision.rejected.len(),
        skipped: 0,
    }
}
