//! The second that is being counted.

use flotilla_core::routing::OutcomeStatus;
use flotilla_dispatch::EndedRequest;
use flotilla_telemetry::clock::unix_millis;
use hdrhistogram::Histogram;

use super::node_totals::NodeTotals;
use super::report::{LatencyPercentiles, MeteredEnergy, RequestSummary, TrafficPoint};

/// Requests of one second that get a summary, and summaries that are kept. Further requests of the
/// second are counted, but not listed: all of them would flood the page.
pub(super) const MAX_SUMMARIES: usize = 50;
/// Longest latency that the histograms hold, in microseconds: ten minutes. Longer ones count as this.
const MAX_LATENCY_US: u64 = 600_000_000;

/// Counters of the current second. The histograms are large, so they are allocated once and reset
/// every second.
pub(super) struct CurrentSecond {
    requests: u64,
    errors: u64,
    prompt_tokens: u64,
    output_tokens: u64,
    energy: MeteredEnergy,
    first_token: Histogram<u64>,
    per_token: Histogram<u64>,
    total: Histogram<u64>,
    summaries: Vec<RequestSummary>,
    /// Requests beyond [`MAX_SUMMARIES`].
    omitted: u64,
}

impl CurrentSecond {
    /// An empty second.
    pub(super) fn new() -> Self {
        let histogram = || {
            let mut histogram = Histogram::new_with_bounds(1, MAX_LATENCY_US, 3)
                // The bounds are valid constants.
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
            summaries: Vec::new(),
            omitted: 0,
        }
    }

    /// Counts a request.
    pub(super) fn add(&mut self, request: &EndedRequest<'_>) {
        let outcome = request.outcome;
        self.requests += 1;
        self.errors += u64::from(outcome.status == OutcomeStatus::Failed);
        self.prompt_tokens += u64::from(outcome.prompt_tokens.unwrap_or(0));
        self.output_tokens += u64::from(outcome.completion_tokens.unwrap_or(0));
        self.energy.add(&request.energy);
        if outcome.status == OutcomeStatus::Answered {
            let micros = |millis: f64| (millis * 1e3) as u64;
            self.total.saturating_record(micros(outcome.total_ms));
            if let Some(first) = outcome.first_token_ms {
                self.first_token.saturating_record(micros(first));
            }
            if let Some(per_token) = request.time_per_token {
                self.per_token
                    .saturating_record(per_token.as_micros() as u64);
            }
        }
        if self.summaries.len() < MAX_SUMMARIES {
            self.summaries.push(summary(request));
        } else {
            self.omitted += 1;
        }
    }

    /// Ends the second: returns what was counted, and starts the next one at zero.
    pub(super) fn finish(
        &mut self,
        in_flight: u64,
        nodes: &NodeTotals,
    ) -> (TrafficPoint, Vec<RequestSummary>) {
        let point = TrafficPoint {
            at: unix_millis(),
            requests: self.requests,
            errors: self.errors,
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.output_tokens,
            in_flight,
            queued: nodes.queued,
            first_token_ms: percentiles(&self.first_token),
            per_token_ms: percentiles(&self.per_token),
            total_ms: percentiles(&self.total),
            energy: self.energy,
            watts: nodes.watts,
            estimated_watts: nodes.estimated_watts,
        };
        let mut summaries = std::mem::take(&mut self.summaries);
        if let Some(first) = summaries.first_mut() {
            first.omitted = self.omitted;
        }
        self.clear();
        (point, summaries)
    }

    fn clear(&mut self) {
        self.first_token.reset();
        self.per_token.reset();
        self.total.reset();
        (self.requests, self.errors, self.omitted) = (0, 0, 0);
        (self.prompt_tokens, self.output_tokens) = (0, 0);
        self.energy = MeteredEnergy::default();
    }
}

fn percentiles(histogram: &Histogram<u64>) -> Option<LatencyPercentiles> {
    let millis = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    (!histogram.is_empty()).then(|| LatencyPercentiles {
        p50: millis(0.5),
        p95: millis(0.95),
        p99: millis(0.99),
    })
}

fn summary(request: &EndedRequest<'_>) -> RequestSummary {
    let (decision, outcome) = (request.decision, request.outcome);
    RequestSummary {
        id: request.id.to_owned(),
        at: request.at,
        requested_model: decision.requested_model.clone(),
        task: decision.task.as_ref().map(ToString::to_string),
        model: decision.model.as_ref().map(ToString::to_string),
        node: decision.node.as_ref().map(ToString::to_string),
        status: outcome.status,
        error: outcome.error.clone(),
        first_token_ms: outcome.first_token_ms,
        total_ms: outcome.total_ms,
        completion_tokens: outcome.completion_tokens,
        joules: outcome.joules.map(|joules| f64::from(joules.0)),
        joules_source: outcome.joules_source.map(|sources| sources.to_string()),
        cascade_tiers: decision.cascade_tiers.len(),
        hedged: !decision.hedges.is_empty(),
        candidates: decision.candidates.len(),
        rejected: decision.rejected.len(),
        omitted: 0,
    }
}
