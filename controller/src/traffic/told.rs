//! What is told of the traffic: a second, a request in short, and the totals.

use flotilla_core::energy::EnergyUsage;
use flotilla_core::routing::OutcomeStatus;
use serde::{Deserialize, Serialize};

/// Energy that was drawn, with what it cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MeteredEnergy {
    pub joules: f64,
    /// The part of the joules that was not measured.
    pub estimated_joules: f64,
    /// Of CO2 equivalent, where the grid's intensity is known.
    pub grams: Option<f64>,
    pub cost: Option<f64>,
}

impl MeteredEnergy {
    pub(super) fn add(&mut self, spent: &EnergyUsage) {
        let joules = f64::from(spent.joules.0);
        self.joules += joules;
        if !spent.sources.is_measured() {
            self.estimated_joules += joules;
        }
        let add = |sum: &mut Option<f64>, more: Option<f64>| {
            if let Some(more) = more {
                *sum = Some(sum.unwrap_or(0.0) + more);
            }
        };
        add(&mut self.grams, spent.grams);
        add(&mut self.cost, spent.price.map(|price| price.amount));
    }
}

/// What went through in a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPoint {
    /// Its end, in milliseconds since 1970.
    pub at: u64,
    /// Requests that ended.
    pub requests: u64,
    /// Of those, the ones that failed.
    pub errors: u64,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    /// Requests that are being answered.
    pub in_flight: u64,
    /// Requests that wait, here and on the nodes.
    pub queued: u64,
    pub first_token_ms: Option<LatencyPercentiles>,
    pub per_token_ms: Option<LatencyPercentiles>,
    pub total_ms: Option<LatencyPercentiles>,
    #[serde(flatten)]
    pub energy: MeteredEnergy,
    /// What the fleet's nodes draw.
    pub watts: Option<f64>,
    /// The part of it that is not measured.
    pub estimated_watts: f64,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatencyPercentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

/// A request that has ended, in short.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestSummary {
    pub id: String,
    /// When it was decided, in milliseconds since 1970.
    pub at: u64,
    pub requested: String,
    pub task: Option<String>,
    pub model: Option<String>,
    pub node: Option<String>,
    pub end: OutcomeStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<f64>,
    pub total_ms: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules_source: Option<String>,
    /// Smaller models that were asked before.
    pub tiers: usize,
    pub hedged: bool,
    pub candidates: usize,
    pub rejected: usize,
    /// Requests that are not told because there were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub skipped: u64,
}

// serde asks for a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What was done under one name since the controller started.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageTotal {
    pub name: String,
    pub requests: u64,
    pub errors: u64,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    #[serde(flatten)]
    pub energy: MeteredEnergy,
}

/// The totals by model, task and node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageTotals {
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    pub models: Vec<UsageTotal>,
    pub tasks: Vec<UsageTotal>,
    pub nodes: Vec<UsageTotal>,
}
