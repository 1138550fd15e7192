//! Every metric there is, with its unit, its attributes and its buckets, and the names of spans and
//! their attributes.
//!
//! `gen_ai.*` follow OpenTelemetry's semantic conventions for generative AI, `hw.*` those for
//! hardware (both in development); `flotilla.*` is what they have no name for.

use std::fmt::Write as _;

/// What a metric does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstrumentKind {
    /// Only ever grows.
    Counter,
    /// Is what it is now.
    Gauge,
    /// How often values fell into which bucket.
    Histogram,
}

/// Who tells a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reporter {
    Controller,
    /// On a controller's `/metrics` with the label `flotilla_node` too.
    Agent,
}

/// A metric.
#[derive(Debug, PartialEq)]
pub struct MetricDefinition {
    pub name: &'static str,
    pub kind: InstrumentKind,
    /// In UCUM's notation, as OpenTelemetry wants it.
    pub unit: &'static str,
    pub description: &'static str,
    pub attributes: &'static [&'static str],
    /// Upper bounds of a histogram's buckets.
    pub buckets: &'static [f64],
    pub reporter: Reporter,
}

/// Attributes of metrics and spans.
pub mod attr {
    pub const OPERATION: &str = "gen_ai.operation.name";
    pub const PROVIDER: &str = "gen_ai.provider.name";
    pub const REQUEST_MODEL: &str = "gen_ai.request.model";
    pub const RESPONSE_MODEL: &str = "gen_ai.response.model";
    pub const TOKEN_TYPE: &str = "gen_ai.token.type";
    pub const ERROR_TYPE: &str = "error.type";
    pub const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
    pub const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
    pub const INPUT_MESSAGES: &str = "gen_ai.input.messages";
    pub const OUTPUT_MESSAGES: &str = "gen_ai.output.messages";
    pub const FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
    pub const TIME_TO_FIRST_CHUNK: &str = "gen_ai.response.time_to_first_chunk";

    pub const MODEL: &str = "flotilla.model";
    pub const TASK: &str = "flotilla.task";
    pub const NODE: &str = "flotilla.node";
    pub const ZONE: &str = "flotilla.zone";
    pub const API_KEY_HASH: &str = "flotilla.api_key.hash";
    pub const STATE: &str = "flotilla.state";
    pub const CASCADE_OUTCOME: &str = "flotilla.cascade.outcome";
    pub const HEDGE_WON: &str = "flotilla.hedge.won";
    pub const CLASSIFY_ABSTAINED: &str = "flotilla.classify.abstained";
    pub const CLASSIFY_CONFIDENCE: &str = "flotilla.classify.confidence";
    pub const CURRENCY: &str = "flotilla.currency";
    pub const DECISION_ID: &str = "flotilla.decision.id";
    pub const ENERGY_SOURCE: &str = "flotilla.energy.source";
    pub const REQUEST_ENERGY: &str = "flotilla.request.energy";

    pub const HW_ID: &str = "hw.id";
    pub const HW_TYPE: &str = "hw.type";
    pub const HW_NAME: &str = "hw.name";
    pub const HW_PARENT: &str = "hw.parent";
}

/// `gen_ai.provider.name` of whatever a fleet answers: the conventions have no value for models
/// that are hosted by their user.
pub const PROVIDER: &str = "flotilla";

/// What an attribute says whose value is not one of those that are known, so that nobody's input
/// makes new time series.
pub const OTHER: &str = "_OTHER";

const SECONDS_OF_REQUESTS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
const SECONDS_TO_FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
const SECONDS_PER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
];
const TOKENS: &[f64] = &[
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];
/// From a token of the smallest model to an essay of a large one on a GPU.
const JOULES: &[f64] = &[
    0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0,
    10000.0,
];
/// What deciding takes: microseconds.
const SECONDS_OF_DECISIONS: &[f64] = &[
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005,
    0.01, 0.1, 1.0,
];
const SECONDS_ON_NODES: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0,
];

/// The token metric's name changes in the conventions time and again: it is here once.
pub const TOKEN_USAGE_NAME: &str = "gen_ai.client.token.usage";

macro_rules! metrics {
    ($($id:ident = $name:expr, $kind:ident, $by:ident, $unit:literal, [$($attribute:ident),*], $buckets:expr, $description:literal;)*) => {
        $(
            #[doc = $description]
            pub const $id: MetricDefinition = MetricDefinition {
                name: $name,
                kind: InstrumentKind::$kind,
                unit: $unit,
                description: $description,
                attributes: &[$(attr::$attribute),*],
                buckets: $buckets,
                reporter: Reporter::$by,
            };
        )*
        /// All of them.
        pub const ALL: &[&MetricDefinition] = &[$(&$id),*];
    };
}

metrics! {
    REQUEST_DURATION = "gen_ai.server.request.duration", Histogram, Controller, "s", [OPERATION, PROVIDER, REQUEST_MODEL, RESPONSE_MODEL, ERROR_TYPE], SECONDS_OF_REQUESTS, "From a request's arrival to the end of its answer.";
    TIME_TO_FIRST_TOKEN = "gen_ai.server.time_to_first_token", Histogram, Controller, "s", [OPERATION, PROVIDER, REQUEST_MODEL, RESPONSE_MODEL], SECONDS_TO_FIRST_TOKEN, "From a request's arrival to the first token of its answer, of requests that were answered.";
    TIME_PER_OUTPUT_TOKEN = "gen_ai.server.time_per_output_token", Histogram, Controller, "s", [OPERATION, PROVIDER, REQUEST_MODEL, RESPONSE_MODEL], SECONDS_PER_TOKEN, "Time per token after the first one, of requests that were answered.";
    TOKEN_USAGE = TOKEN_USAGE_NAME, Histogram, Controller, "{token}", [OPERATION, PROVIDER, REQUEST_MODEL, RESPONSE_MODEL, TOKEN_TYPE], TOKENS, "Tokens that were read (input) and written (output) for a request.";
    REQUEST_ENERGY = "flotilla.request.energy", Histogram, Controller, "J", [MODEL, TASK, ENERGY_SOURCE], JOULES, "Energy that a request took beyond what its nodes draw idle.";
    REQUEST_EMISSIONS = "flotilla.request.emissions", Counter, Controller, "g", [MODEL, TASK], &[], "Grams of CO2 equivalent of requests' energy, by the grid's intensity.";
    REQUEST_COST = "flotilla.request.cost", Counter, Controller, "{currency}", [MODEL, TASK, CURRENCY], &[], "Price of requests' energy.";
    NODE_REQUEST_ENERGY = "flotilla.node.request.energy", Counter, Controller, "J", [NODE], &[], "Energy of requests, by the node that answered.";
    API_KEY_ENERGY = "flotilla.api_key.request.energy", Counter, Controller, "J", [API_KEY_HASH], &[], "Energy of requests, by who asked: the first 8 digits of the hash of the key, of the first 100 keys.";
    REQUESTS_IN_FLIGHT = "flotilla.requests.in_flight", Gauge, Controller, "{request}", [], &[], "Requests that are being answered.";
    PENDING_REQUESTS = "flotilla.requests.pending", Gauge, Controller, "{request}", [MODEL], &[], "Requests that wait for a replica, on all controllers.";
    DISPATCH_DURATION = "flotilla.dispatch.duration", Histogram, Controller, "s", [], SECONDS_OF_DECISIONS, "Time to choose a replica, without waiting.";
    CLASSIFICATIONS = "flotilla.classify.requests", Counter, Controller, "{request}", [TASK, CLASSIFY_ABSTAINED], &[], "Requests whose task was found, or not, by what they say.";
    CASCADE_ANSWERS = "flotilla.cascade.answers", Counter, Controller, "{answer}", [TASK, MODEL, CASCADE_OUTCOME], &[], "Answers of smaller models, and what became of them.";
    HEDGES = "flotilla.hedges", Counter, Controller, "{request}", [HEDGE_WON], &[], "Requests that were sent to a second replica because the first took long.";
    RETRIES = "flotilla.retries", Counter, Controller, "{attempt}", [], &[], "Tries on further replicas after one had failed.";
    FLEET_NODES = "flotilla.fleet.nodes", Gauge, Controller, "{node}", [STATE], &[], "Nodes, by state: joining, ready, suspect, lost.";
    NODE_READY = "flotilla.node.ready", Gauge, Controller, "1", [NODE, ZONE], &[], "Whether a node is ready.";
    REPLICAS_DESIRED = "flotilla.model.replicas.desired", Gauge, Controller, "{replica}", [MODEL], &[], "Replicas that a model is assigned.";
    REPLICAS_READY = "flotilla.model.replicas.ready", Gauge, Controller, "{replica}", [MODEL], &[], "Replicas that answer.";
    STORE_AVAILABLE = "flotilla.store.available", Gauge, Controller, "1", [], &[], "Whether the store answers.";
    LEADER = "flotilla.controller.leader", Gauge, Controller, "1", [], &[], "Whether this controller leads.";

    REPLICA_REQUESTS = "flotilla.replica.requests", Counter, Agent, "{request}", [MODEL, STATE], &[], "Requests of a replica, by state: started, failed, cancelled, refused.";
    REPLICA_ACTIVE = "flotilla.replica.active", Gauge, Agent, "{request}", [MODEL], &[], "Requests that a replica computes.";
    REPLICA_QUEUED = "flotilla.replica.queued", Gauge, Agent, "{request}", [MODEL], &[], "Requests that wait before a replica.";
    REPLICA_TOKENS = "flotilla.replica.tokens", Counter, Agent, "{token}", [MODEL, TOKEN_TYPE], &[], "Tokens that a replica read (input) and wrote (output).";
    QUEUE_DURATION = "flotilla.replica.queue.duration", Histogram, Agent, "s", [MODEL], SECONDS_ON_NODES, "Time that a request waited before a replica.";
    PREFILL_DURATION = "flotilla.replica.prefill.duration", Histogram, Agent, "s", [MODEL], SECONDS_ON_NODES, "Time to read a prompt.";
    DECODE_DURATION = "flotilla.replica.decode.duration", Histogram, Agent, "s", [MODEL], SECONDS_ON_NODES, "Time to write an answer after its first token.";
    HW_ENERGY = "hw.energy", Counter, Agent, "J", [HW_ID, HW_TYPE, HW_NAME, HW_PARENT, ENERGY_SOURCE], &[], "Energy of a part of the node since the agent started; one with a parent is part of that.";
    HW_POWER = "hw.power", Gauge, Agent, "W", [HW_ID, HW_TYPE, HW_NAME, HW_PARENT, ENERGY_SOURCE], &[], "What a part of the node draws.";
    HOST_ENERGY = "hw.host.energy", Counter, Agent, "J", [HW_ID, ENERGY_SOURCE], &[], "Energy of the node since the agent started, as far as its meters cover it.";
    HOST_POWER = "hw.host.power", Gauge, Agent, "W", [HW_ID, ENERGY_SOURCE], &[], "What the node draws, as far as its meters cover it.";
    ENERGY_ATTRIBUTED = "flotilla.energy.attributed", Counter, Agent, "J", [], &[], "Energy above idle that went to requests.";
    ENERGY_IDLE = "flotilla.energy.idle", Counter, Agent, "J", [], &[], "Energy that was drawn without requests, or would have been.";
    NODE_THROTTLED = "flotilla.node.throttled", Gauge, Agent, "1", [], &[], "Whether the node is slowed down by heat.";
    BATTERY_CHARGE = "hw.battery.charge", Gauge, Agent, "1", [HW_ID], &[], "How full the node's battery is, 0 to 1.";
    ON_BATTERY = "flotilla.node.on_battery", Gauge, Agent, "1", [], &[], "Whether the node runs on its battery.";
}

/// Spans of a request, the first one the root.
pub mod span {
    /// What the request belongs to is found.
    pub const CLASSIFY: &str = "classify";
    /// A replica is chosen.
    pub const ROUTE: &str = "route";
    /// The request waits for a replica that can take it.
    pub const ADMISSION: &str = "admission";
    /// A replica is asked. `forward` while it answers.
    pub const FORWARD: &str = "forward";
    /// It waits before the replica.
    pub const QUEUE: &str = "queue";
    /// Its prompt is read.
    pub const PREFILL: &str = "prefill";
    /// Its answer is written.
    pub const DECODE: &str = "decode";
}

impl MetricDefinition {
    /// What the exporter for Prometheus makes of the name.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        let mut name = self.name.replace('.', "_");
        let unit = match self.unit {
            "s" => "_seconds",
            "J" => "_joules",
            "W" => "_watts",
            "By" => "_bytes",
            "g" => "_grams",
            "1" if self.kind == InstrumentKind::Gauge => "_ratio",
            _ => "",
        };
        name.push_str(unit);
        if self.kind == InstrumentKind::Counter {
            name.push_str("_total");
        }
        name
    }
}

/// The table in `docs/telemetry.md`, which a test holds against this.
#[must_use]
pub fn markdown_table() -> String {
    let mut table = String::from(
        "| metric | for Prometheus | kind | unit | attributes | by | what |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for metric in ALL {
        let attributes: Vec<_> = metric
            .attributes
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "| `{}` | `{}` | {} | {} | {} | {} | {} |",
            metric.name,
            metric.prometheus_name(),
            format!("{:?}", metric.kind).to_lowercase(),
            metric.unit,
            attributes.join(", "),
            format!("{:?}", metric.reporter).to_lowercase(),
            metric.description
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_documented_table_is_this_one() {
        let documented = include_str!("../../docs/telemetry.md");
        assert!(
            documented.contains(&markdown_table()),
            "put what `cargo run --release -p flotilla-telemetry --example metrics` prints into docs/telemetry.md"
        );
    }

    #[test]
    fn every_metric_is_there_once_and_histograms_have_rising_buckets() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let histogram = metric.kind == InstrumentKind::Histogram;
            assert_eq!(histogram, !metric.buckets.is_empty(), "{}", metric.name);
            assert!(metric.buckets.is_sorted(), "{}", metric.name);
        }
    }
}
