//! Defines every metric with its unit, attributes and buckets, and the names of spans and their
//! attributes.
//!
//! `gen_ai.*` follows OpenTelemetry's semantic conventions for generative AI, `hw.*` those for
//! hardware (both in development). `flotilla.*` names what the conventions do not cover.

use std::fmt::Write as _;

/// The kind of instrument of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstrumentKind {
    /// A sum that only increases.
    Counter,
    /// A current value.
    Gauge,
    /// A distribution of values over buckets.
    Histogram,
}

/// The process that reports a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reporter {
    /// Controllers.
    Controller,
    /// Agents. Controllers also serve these metrics, with the label `flotilla_node`.
    Agent,
}

/// The definition of a metric.
#[derive(Debug, PartialEq)]
pub struct MetricDefinition {
    /// Name in OpenTelemetry.
    pub name: &'static str,
    /// Kind of instrument.
    pub kind: InstrumentKind,
    /// Unit in UCUM notation, as OpenTelemetry requires.
    pub unit: &'static str,
    /// What the metric measures, as a sentence.
    pub description: &'static str,
    /// Names of its attributes, from [`attr`].
    pub attributes: &'static [&'static str],
    /// Upper bounds of the buckets of a histogram. Empty for other kinds.
    pub buckets: &'static [f64],
    /// The process that reports it.
    pub reporter: Reporter,
}

/// Names of the attributes of metrics and spans.
pub mod attr {
    /// `chat`, `text_completion` or `embeddings`.
    pub const OPERATION: &str = "gen_ai.operation.name";
    /// Always [`PROVIDER`](super::PROVIDER).
    pub const PROVIDER: &str = "gen_ai.provider.name";
    /// The `model` field of the request: a model, `auto` or `task:NAME`.
    pub const REQUEST_MODEL: &str = "gen_ai.request.model";
    /// The model that answered.
    pub const RESPONSE_MODEL: &str = "gen_ai.response.model";
    /// `input` or `output`.
    pub const TOKEN_TYPE: &str = "gen_ai.token.type";
    /// Short type of the error of a request that failed.
    pub const ERROR_TYPE: &str = "error.type";
    /// Tokens of the prompt.
    pub const INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
    /// Tokens of the answer.
    pub const OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
    /// The prompt. Only recorded when content is captured.
    pub const INPUT_MESSAGES: &str = "gen_ai.input.messages";
    /// The answer. Only recorded when content is captured.
    pub const OUTPUT_MESSAGES: &str = "gen_ai.output.messages";
    /// Why each choice ended.
    pub const FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
    /// Time to the first events of the answer, in seconds.
    pub const TIME_TO_FIRST_CHUNK: &str = "gen_ai.response.time_to_first_chunk";

    /// Name of a model.
    pub const MODEL: &str = "flotilla.model";
    /// Name of a task.
    pub const TASK: &str = "flotilla.task";
    /// Name of a node.
    pub const NODE: &str = "flotilla.node";
    /// Privacy zone of a node.
    pub const ZONE: &str = "flotilla.zone";
    /// First 8 hexadecimal digits of the hash of an API key.
    pub const API_KEY_HASH: &str = "flotilla.api_key.hash";
    /// State of a node, or of a request on a replica.
    pub const STATE: &str = "flotilla.state";
    /// What became of the answer of a model in a cascade.
    pub const CASCADE_OUTCOME: &str = "flotilla.cascade.outcome";
    /// Whether the encoder was used to classify a request, or why not.
    pub const ENCODER_OUTCOME: &str = "flotilla.encoder.outcome";
    /// Whether the second replica of a hedged request answered first.
    pub const HEDGE_WON: &str = "flotilla.hedge.won";
    /// Whether the classifier was not confident enough to choose a task.
    pub const CLASSIFY_ABSTAINED: &str = "flotilla.classify.abstained";
    /// Confidence of the classifier, from 0 to 1.
    pub const CLASSIFY_CONFIDENCE: &str = "flotilla.classify.confidence";
    /// ISO 4217 code of a price.
    pub const CURRENCY: &str = "flotilla.currency";
    /// Id of the routing decision, for `flotilla explain`.
    pub const DECISION_ID: &str = "flotilla.decision.id";
    /// Sources of an energy value, for example `rapl+nvml` or `estimate`.
    pub const ENERGY_SOURCE: &str = "flotilla.energy.source";
    /// Energy of the request, in joules.
    pub const REQUEST_ENERGY: &str = "flotilla.request.energy";

    /// Id of a hardware component, or name of the node.
    pub const HW_ID: &str = "hw.id";
    /// Type of a hardware component, for example `cpu` or `gpu`.
    pub const HW_TYPE: &str = "hw.type";
    /// Name of a hardware component.
    pub const HW_NAME: &str = "hw.name";
    /// Id of the component that this one is part of.
    pub const HW_PARENT: &str = "hw.parent";
}

/// Value of `gen_ai.provider.name`. The conventions have no value for self-hosted models.
pub const PROVIDER: &str = "flotilla";

/// Value of an attribute that stands for all values without a time series of their own, so that
/// input from clients cannot create time series.
pub const OTHER: &str = "_OTHER";

const REQUEST_SECONDS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];
const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];
const PER_TOKEN_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
];
const TOKENS: &[f64] = &[
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0,
    16777216.0, 67108864.0,
];
/// From one token of the smallest model to a long answer of a large model on a GPU.
const JOULES: &[f64] = &[
    0.001, 0.01, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0,
    10000.0,
];
/// Choosing a replica takes microseconds.
const DISPATCH_SECONDS: &[f64] = &[
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.0025, 0.005,
    0.01, 0.1, 1.0,
];
const NODE_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0,
];

/// Name of the token metric. It is defined once because the conventions change it often.
pub const TOKEN_USAGE_NAME: &str = "gen_ai.client.token.usage";

macro_rules! metrics {
    ($($id:ident = $name:expr, $kind:ident, $reporter:ident, $unit:literal, [$($attribute:ident),*], $buckets:expr, $description:literal;)*) => {
        $(
            #[doc = $description]
            pub const $id: MetricDefinition = MetricDefinition {
                name: $name,
                kind: InstrumentKind::$kind,
                unit: $unit,
                description: $description,
                attributes: &[$(attr::$attribute),*],
                buckets: $buckets,
                reporter: Reporter::$reporter,
            };
        )*
        /// All metrics.
        pub const ALL: &[&MetricDefinition] = &[$(&$id),*];
    };
}

metrics! {
    REQUEST_DURATION = "gen_ai.server.request.duration", Histogram, Controller, "s", [OPERATION, PROVIDER, REQUEST_MODEL, RESPONSE_MODEL, ERROR_TYPE], REQUEST_SECONDS, "Time from the arrival of a request to the end of its answer.";
    TIME_TO_FIRST_TOKEN = "gen_ai.server.time_to_first_token", Histogram, Controller, "s", [OPERATION, PROVIDER, REQUEST_MODEL, RESPONSE_MODEL], FIRST_TOKEN_SECONDS, "Time from the arrival of a request to the first token of its answer, for requests that succeeded.";
    TIME_PER_OUTPUT_TOKEN = "gen_ai.server.time_per_output_token", Histogram, Controller, "s", [OPERATION, PROVIDER, REQUEST_MODEL, RESPONSE_MODEL], PER_TOKEN_SECONDS, "Mean time per token after the first one, for requests that succeeded.";
    TOKEN_USAGE = TOKEN_USAGE_NAME, Histogram, Controller, "{token}", [OPERATION, PROVIDER, REQUEST_MODEL, RESPONSE_MODEL, TOKEN_TYPE], TOKENS, "Tokens of prompts (input) and answers (output) per request.";
    REQUEST_ENERGY = "flotilla.request.energy", Histogram, Controller, "J", [MODEL, TASK, ENERGY_SOURCE], JOULES, "Energy of a request above what its nodes draw at idle.";
    REQUEST_EMISSIONS = "flotilla.request.emissions", Counter, Controller, "g", [MODEL, TASK], &[], "Grams of CO2 equivalent of the energy of requests, by the configured carbon intensity.";
    REQUEST_COST = "flotilla.request.cost", Counter, Controller, "{currency}", [MODEL, TASK, CURRENCY], &[], "Price of the energy of requests.";
    NODE_REQUEST_ENERGY = "flotilla.node.request.energy", Counter, Controller, "J", [NODE], &[], "Energy of requests, by the node that answered.";
    API_KEY_ENERGY = "flotilla.api_key.request.energy", Counter, Controller, "J", [API_KEY_HASH], &[], "Energy of requests, by API key: the first 8 digits of the hash of the key, for the first 100 keys.";
    REQUESTS_IN_FLIGHT = "flotilla.requests.in_flight", Gauge, Controller, "{request}", [], &[], "Requests being answered.";
    PENDING_REQUESTS = "flotilla.requests.pending", Gauge, Controller, "{request}", [MODEL], &[], "Requests in the pending queue, which wait for a replica, over all controllers; each controller's number is rounded down to a power of two.";
    DISPATCH_DURATION = "flotilla.dispatch.duration", Histogram, Controller, "s", [], DISPATCH_SECONDS, "Time to choose a replica, without time in the pending queue.";
    CLASSIFICATIONS = "flotilla.classify.requests", Counter, Controller, "{request}", [TASK, CLASSIFY_ABSTAINED], &[], "Requests that were classified, by the task that was chosen.";
    ENCODER_REQUESTS = "flotilla.encoder.requests", Counter, Controller, "{request}", [ENCODER_OUTCOME], &[], "Requests that the classifier was unsure of, by whether the encoder was used: used, timeout, busy, unavailable, zone, not_trained, failed.";
    ENCODER_DURATION = "flotilla.encoder.duration", Histogram, Controller, "s", [ENCODER_OUTCOME], NODE_SECONDS, "Time that requests waited for the encoder.";
    CASCADE_ANSWERS = "flotilla.cascade.answers", Counter, Controller, "{answer}", [TASK, MODEL, CASCADE_OUTCOME], &[], "Answers of the models of a cascade, by outcome.";
    HEDGES = "flotilla.hedges", Counter, Controller, "{request}", [HEDGE_WON], &[], "Requests that were also sent to a second replica because the first one was slow.";
    RETRIES = "flotilla.retries", Counter, Controller, "{attempt}", [], &[], "Attempts to answer a request after the first had failed.";
    FAILED_ATTEMPTS = "flotilla.failed_attempts", Counter, Controller, "{attempt}", [MODEL, ERROR_TYPE], &[], "Attempts of replicas to answer a request that failed before the answer began.";
    DATASET_RECORDS_DROPPED = "flotilla.dataset.records.dropped", Counter, Controller, "{record}", [TASK, ERROR_TYPE], &[], "Prompts and answers that a task learns from and that were not kept, by reason: queue_full, too_large, disk_failed.";
    FLEET_NODES = "flotilla.fleet.nodes", Gauge, Controller, "{node}", [STATE], &[], "Nodes, by state: joining, ready, suspect, lost.";
    NODES_HELD = "flotilla.fleet.nodes.held", Gauge, Controller, "{node}", [], &[], "Lost nodes that keep their models, since too many nodes were lost at once. 0: models are placed elsewhere when a node is lost.";
    NODE_READY = "flotilla.node.ready", Gauge, Controller, "1", [NODE, ZONE], &[], "Whether a node is ready.";
    REPLICAS_DESIRED = "flotilla.model.replicas.desired", Gauge, Controller, "{replica}", [MODEL], &[], "Replicas that are assigned to nodes.";
    REPLICAS_READY = "flotilla.model.replicas.ready", Gauge, Controller, "{replica}", [MODEL], &[], "Replicas that are ready.";
    STORE_AVAILABLE = "flotilla.store.available", Gauge, Controller, "1", [], &[], "Whether the store answers and takes changes.";
    LEADER = "flotilla.controller.leader", Gauge, Controller, "1", [], &[], "Whether this controller is the leader.";

    REPLICA_REQUESTS = "flotilla.replica.requests", Counter, Agent, "{request}", [MODEL, STATE], &[], "Requests of a replica, by state: started, failed, cancelled, refused.";
    REPLICA_ACTIVE = "flotilla.replica.active", Gauge, Agent, "{request}", [MODEL], &[], "Requests that a replica computes.";
    REPLICA_QUEUED = "flotilla.replica.queued", Gauge, Agent, "{request}", [MODEL], &[], "Requests in the queue of a replica.";
    REPLICA_TOKENS = "flotilla.replica.tokens", Counter, Agent, "{token}", [MODEL, TOKEN_TYPE], &[], "Tokens that a replica processed (input) and generated (output).";
    QUEUE_DURATION = "flotilla.replica.queue.duration", Histogram, Agent, "s", [MODEL], NODE_SECONDS, "Time of a request in the queue of a replica.";
    PREFILL_DURATION = "flotilla.replica.prefill.duration", Histogram, Agent, "s", [MODEL], NODE_SECONDS, "Time to process a prompt.";
    DECODE_DURATION = "flotilla.replica.decode.duration", Histogram, Agent, "s", [MODEL], NODE_SECONDS, "Time to generate an answer after its first token.";
    HW_ENERGY = "hw.energy", Counter, Agent, "J", [HW_ID, HW_TYPE, HW_NAME, HW_PARENT, ENERGY_SOURCE], &[], "Energy of a hardware component since the agent started. The energy of a component with a parent is part of the parent's.";
    HW_POWER = "hw.power", Gauge, Agent, "W", [HW_ID, HW_TYPE, HW_NAME, HW_PARENT, ENERGY_SOURCE], &[], "Power draw of a hardware component.";
    HOST_ENERGY = "hw.host.energy", Counter, Agent, "J", [HW_ID, ENERGY_SOURCE], &[], "Energy of the node since the agent started, as far as its meters cover it.";
    HOST_POWER = "hw.host.power", Gauge, Agent, "W", [HW_ID, ENERGY_SOURCE], &[], "Power draw of the node, as far as its meters cover it.";
    ENERGY_ATTRIBUTED = "flotilla.energy.attributed", Counter, Agent, "J", [], &[], "Energy above idle that was attributed to requests.";
    ENERGY_IDLE = "flotilla.energy.idle", Counter, Agent, "J", [], &[], "Energy that was not attributed to requests.";
    NODE_THROTTLED = "flotilla.node.throttled", Gauge, Agent, "1", [], &[], "Whether the node is throttled by heat.";
    BATTERY_CHARGE = "hw.battery.charge", Gauge, Agent, "1", [HW_ID], &[], "Charge of the battery of the node, from 0 to 1.";
    DISK_USED = "flotilla.node.disk.used", Gauge, Agent, "By", [], &[], "Disk space that files of models take on the node.";
    DISK_BUDGET = "flotilla.node.disk.budget", Gauge, Agent, "By", [], &[], "Disk space that there is for files of models on the node.";
    DEVICE_MEMORY_USED = "flotilla.node.device_memory.used", Gauge, Agent, "By", [HW_ID], &[], "Memory of a GPU that models take.";
    DEVICE_MEMORY_BUDGET = "flotilla.node.device_memory.budget", Gauge, Agent, "By", [HW_ID], &[], "Memory of a GPU that there is for models.";
    ON_BATTERY = "flotilla.node.on_battery", Gauge, Agent, "1", [], &[], "Whether the node runs on its battery.";
}

/// Names of the spans of a request, below its root span.
pub mod span {
    /// The classifier chooses the task of the request.
    pub const CLASSIFY: &str = "classify";
    /// The controller chooses a replica.
    pub const ROUTE: &str = "route";
    /// The request waits for a replica.
    pub const ADMISSION: &str = "admission";
    /// The controller calls the node of the replica.
    pub const FORWARD: &str = "forward";
    /// The request is in the queue of the replica.
    pub const QUEUE: &str = "queue";
    /// The replica computes one of the turns of a request that has several.
    pub const TURN: &str = "turn";
    /// The replica processes the prompt.
    pub const PREFILL: &str = "prefill";
    /// The replica generates the answer.
    pub const DECODE: &str = "decode";
}

impl MetricDefinition {
    /// Returns the name that the Prometheus exporter gives the metric.
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

/// Returns the table of all metrics in Markdown. A test compares it with `docs/telemetry.md`.
#[must_use]
pub fn markdown_table() -> String {
    let mut table = String::from(
        "| metric | in Prometheus | kind | unit | attributes | reported by | description |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for metric in ALL {
        let attributes: Vec<_> = metric
            .attributes
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        // Cannot fail: it writes to a string.
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
    fn documented_table_is_up_to_date() {
        let documented = include_str!("../../docs/telemetry.md");
        assert!(
            documented.contains(&markdown_table()),
            "replace the table in docs/telemetry.md by the output of `cargo run --release -p flotilla-telemetry --example metrics`"
        );
    }

    #[test]
    fn metric_names_are_unique_and_histogram_buckets_are_sorted() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let histogram = metric.kind == InstrumentKind::Histogram;
            assert_eq!(histogram, !metric.buckets.is_empty(), "{}", metric.name);
            assert!(metric.buckets.is_sorted(), "{}", metric.name);
        }
    }
}
