//! Traffic as the API reports it: one second, one request, and the totals by name.

use flotilla_core::energy::EnergyUsage;
use flotilla_core::routing::OutcomeStatus;
use serde::{Deserialize, Serialize};

/// Energy that requests used, with its carbon and its cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeteredEnergy {
    /// Joules attributed to requests.
    pub joules: f64,
    /// The part of `joules` that is estimated instead of measured.
    pub estimated_joules: f64,
    /// Grams of CO2 equivalent. `None` while no grid intensity is known.
    pub co2_grams: Option<f64>,
    /// Price of the electricity in the fleet's currency. `None` while no price is known.
    pub cost: Option<f64>,
}

impl MeteredEnergy {
    /// Adds the energy of one request.
    pub(super) fn add(&mut self, usage: &EnergyUsage) {
        let joules = f64::from(usage.joules.0);
        self.joules += joules;
        if !usage.sources.is_measured() {
            self.estimated_joules += joules;
        }
        let add = |sum: &mut Option<f64>, amount: Option<f64>| {
            if let Some(amount) = amount {
                *sum = Some(sum.unwrap_or(0.0) + amount);
            }
        };
        add(&mut self.co2_grams, usage.co2_grams);
        add(&mut self.cost, usage.cost.map(|price| price.amount));
    }
}

/// One second of traffic through this controller.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPoint {
    /// End of the second, in milliseconds since 1970.
    pub at: u64,
    /// Requests that ended within the second.
    pub requests: u64,
    /// The part of `requests` that failed.
    pub errors: u64,
    /// Prompt tokens of the requests that ended.
    pub prompt_tokens: u64,
    /// Generated tokens of the requests that ended.
    pub output_tokens: u64,
    /// Requests being answered at the end of the second.
    pub in_flight: u64,
    /// Requests waiting at the end of the second, on the controllers and on the nodes.
    pub queued: u64,
    /// Time to the first token. `None` when no request was answered in the second.
    pub first_token_ms: Option<LatencyPercentiles>,
    /// Time per output token after the first. `None` when no answer had more than one token.
    pub per_token_ms: Option<LatencyPercentiles>,
    /// Time to the end of the answer. `None` when no request was answered in the second.
    pub total_ms: Option<LatencyPercentiles>,
    /// Energy of the requests that ended.
    #[serde(flatten)]
    pub energy: MeteredEnergy,
    /// Power that the fleet's nodes draw, in watts. `None` until a node has reported it.
    pub watts: Option<f64>,
    /// The part of `watts` that is estimated instead of measured.
    pub estimated_watts: f64,
}

/// Percentiles of a latency, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencyPercentiles {
    /// The median.
    pub p50: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// One line about a request that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestSummary {
    /// Id of the routing decision, as in `/v1/decisions/{id}`.
    pub id: String,
    /// When the decision was made, in milliseconds since 1970.
    pub at: u64,
    /// The `model` field of the request.
    pub requested_model: String,
    /// The task that the request was routed by. `None` when it named a model.
    pub task: Option<String>,
    /// The model that answered. `None` when none did.
    pub model: Option<String>,
    /// The node that answered. `None` when none did.
    pub node: Option<String>,
    /// How the request ended.
    pub status: OutcomeStatus,
    /// The error that the client received. `None` when it received an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Milliseconds from the request's arrival to its first token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<f64>,
    /// Milliseconds from the request's arrival to its end.
    pub total_ms: f64,
    /// Generated tokens. `None` when the node reported no usage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u32>,
    /// Joules attributed to the request on all replicas. `None` when no node reported any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// Where `joules` comes from, such as `rapl+nvml` or `estimate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_source: Option<String>,
    /// Number of smaller models that the cascade tried.
    pub cascade_tiers: usize,
    /// Whether a second replica was started because the first one was slow.
    pub hedged: bool,
    /// Replicas that could have answered.
    pub candidates: usize,
    /// Replicas and models that could not answer.
    pub rejected: usize,
    /// Requests of the same second that are not listed. Set on the first summary of a second only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: u64,
}

// serde's `skip_serializing_if` passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Usage of one model, task or node since the controller started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageTotal {
    /// Name of the model, task or node.
    pub name: String,
    /// Requests that ended.
    pub requests: u64,
    /// The part of `requests` that failed.
    pub errors: u64,
    /// Prompt tokens of those requests.
    pub prompt_tokens: u64,
    /// Generated tokens of those requests.
    pub output_tokens: u64,
    /// Energy of those requests.
    #[serde(flatten)]
    pub energy: MeteredEnergy,
}

/// Usage since the controller started, by model, task and node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageTotals {
    /// When counting started, in milliseconds since 1970.
    pub since: u64,
    /// One total for each model, sorted by name.
    pub models: Vec<UsageTotal>,
    /// One total for each task, sorted by name.
    pub tasks: Vec<UsageTotal>,
    /// One total for each node, sorted by name.
    pub nodes: Vec<UsageTotal>,
}
