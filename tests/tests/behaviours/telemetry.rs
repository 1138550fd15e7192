//! What collectors are told: the traces and metrics of real requests, received by a real OTLP server.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_telemetry::names::{self, InstrumentKind};
use flotilla_tests::collector::{Collector, ReceivedTelemetry, attribute_text};
use flotilla_tests::{AgentSettings, Cluster, Mode, Process, free_address, simulated_model};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::json;

use crate::resources::task;

/// A client's own trace, sampled.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT: &str = "00f067aa0ba902b7";

/// What sends everything soon.
fn variables(endpoint: &str) -> Vec<(&str, &str)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ]
}

/// A fleet of one node with a model `m`, whose members tell `collector`.
async fn observed(collector: &Collector, more: &[(&str, &str)]) -> Cluster {
    let endpoint = collector.endpoint();
    let mut variables = variables(&endpoint);
    variables.extend(more);
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .env(&variables)
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 1, &json!({"outputTokens": 5})))
        .await;
    cluster.wait_for_replicas("m", 1).await;
    cluster
}

async fn ask(cluster: &Cluster, model: &str, traceparent: Option<&str>, stream: bool) -> String {
    let body = json!({
        "model": model, "stream": stream, "max_tokens": 5, "temperature": 0.5,
        "messages": [{"role": "user", "content": "where is my secret card"}],
    });
    let url = format!("{}/v1/chat/completions", cluster.url());
    let mut request = reqwest::Client::new().post(url).json(&body);
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), 200);
    response.text().await.expect("an answer")
}

/// The spans of a trace by their names.
fn of_trace<'a>(told: &'a ReceivedTelemetry, trace: &str) -> BTreeMap<&'a str, &'a (String, Span)> {
    let spans = told
        .spans
        .iter()
        .filter(|(_, s)| hex::encode(&s.trace_id) == trace);
    spans.map(|told| (told.1.name.as_str(), told)).collect()
}

#[tokio::test]
async fn a_request_is_one_trace_from_the_client_to_the_last_token() {
    let collector = Collector::start(free_address()).await;
    let cluster = observed(&collector, &[]).await;
    let api = cluster.api();
    let learnt =
        |models: &[&str], examples: &[&str]| json!({"models": models, "examples": examples});
    let help = learnt(&["m"], &["where is my card", "i need help with a card"]);
    api.apply(&task("help", help)).await;
    let sums = learnt(&["m"], &["what is one and two", "add three to four"]);
    api.apply(&task("sums", sums)).await;
    let learnt = async || {
        let asked = json!({"model": "auto", "messages": [{"role": "user", "content": "my card"}]});
        let dry = api.post("v1/route", &asked).await;
        let dry: serde_json::Value = dry.json().await.unwrap_or_default();
        dry["task"] == "help"
    };
    cluster.wait_until(learnt).await;
    let traceparent = format!("00-{TRACE}-{CLIENT}-01");
    ask(&cluster, "auto", Some(&traceparent), true).await;

    const ROOT: &str = "POST /v1/chat/completions";
    let parents = [
        (ROOT, CLIENT),
        ("classify", ROOT),
        ("route", ROOT),
        ("forward", ROOT),
        ("chat m", "forward"),
        ("queue", "chat m"),
        ("prefill", "chat m"),
        ("decode", "chat m"),
    ];
    collector
        .wait_for(|told| {
            let spans = of_trace(told, TRACE);
            if !parents.iter().all(|(name, _)| spans.contains_key(name)) {
                return None;
            }
            for (name, parent) in parents {
                let found = hex::encode(&spans[name].1.parent_span_id);
                let wanted = match spans.get(parent) {
                    Some((_, parent)) => hex::encode(&parent.span_id),
                    None => CLIENT.to_owned(),
                };
                assert_eq!(found, wanted, "the parent of {name} is {parent}");
            }
            let of = |name: &str, key: &str| {
                attribute_text(&spans[name].1.attributes, key).unwrap_or_default()
            };
            for (name, service, kind) in [
                (ROOT, "flotilla-controller", SpanKind::Server),
                ("forward", "flotilla-controller", SpanKind::Client),
                ("chat m", "flotilla-agent", SpanKind::Server),
                ("decode", "flotilla-agent", SpanKind::Internal),
            ] {
                assert_eq!(spans[name].0, service, "{name}");
                assert_eq!(spans[name].1.kind(), kind, "{name}");
            }
            for (key, value) in [
                ("gen_ai.operation.name", "chat"),
                ("gen_ai.provider.name", "flotilla"),
                ("gen_ai.request.model", "auto"),
                ("gen_ai.response.model", "m"),
                ("gen_ai.request.max_tokens", "5"),
                ("gen_ai.request.temperature", "0.5"),
                ("gen_ai.usage.output_tokens", "5"),
                ("http.response.status_code", "200"),
                ("flotilla.task", "help"),
                ("flotilla.energy.source", "estimate"),
            ] {
                assert_eq!(of(ROOT, key), value, "{key}");
            }
            assert_eq!(of("chat m", "flotilla.node"), "n1");
            assert!(!of(ROOT, "flotilla.decision.id").is_empty());
            // The parts of the answer are within it, one after the other.
            let (prefill, decode) = (&spans["prefill"].1, &spans["decode"].1);
            assert!(prefill.end_time_unix_nano <= decode.start_time_unix_nano);
            assert!(decode.end_time_unix_nano <= spans[ROOT].1.end_time_unix_nano);
            let told: String = spans
                .values()
                .map(|(_, span)| format!("{span:?}"))
                .collect();
            assert!(!told.contains("secret"), "what was asked is in a trace");
            Some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn content_is_told_where_it_is_switched_on_and_never_of_what_is_held_to_a_zone() {
    let collector = Collector::start(free_address()).await;
    let capture = ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true");
    let mut cluster = observed(&collector, &[capture]).await;
    cluster.start_agent(AgentSettings::new("n2").args(&["--zone", "clinic"]));
    cluster.wait_until_ready(&["n2"]).await;
    let api = cluster.api();
    api.apply(&simulated_model("z", 2, &json!({"outputTokens": 5})))
        .await;
    cluster.wait_for_replicas("z", 2).await;
    api.apply(&task("held", json!({"models": ["z"], "zones": ["clinic"]})))
        .await;
    let other = TRACE.replace('4', "5");
    ask(
        &cluster,
        "task:held",
        Some(&format!("00-{other}-{CLIENT}-01")),
        false,
    )
    .await;
    ask(
        &cluster,
        "m",
        Some(&format!("00-{TRACE}-{CLIENT}-01")),
        false,
    )
    .await;
    collector
        .wait_for(|told| {
            let (open, held) = (of_trace(told, TRACE), of_trace(told, &other));
            let root = "POST /v1/chat/completions";
            let (_, open) = open.get(root)?;
            held.get(root)?;
            let input =
                attribute_text(&open.attributes, "gen_ai.input.messages").unwrap_or_default();
            assert!(input.contains("secret card"), "{open:?}");
            assert!(
                attribute_text(&open.attributes, "gen_ai.output.messages").is_some(),
                "{open:?}"
            );
            let held: String = held.values().map(|(_, span)| format!("{span:?}")).collect();
            assert!(
                !held.contains("secret") && !held.contains("messages"),
                "{held}"
            );
            Some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn metrics_have_the_names_units_buckets_and_attributes_of_the_table() {
    let collector = Collector::start(free_address()).await;
    let cluster = observed(&collector, &[("OTEL_TRACES_SAMPLER", "always_off")]).await;
    ask(&cluster, "m", None, false).await;
    ask(&cluster, "m", None, true).await;
    let wrong = json!({"model": "no-such-model-of-anybody", "messages": []});
    let refused = cluster.api().post("v1/chat/completions", &wrong).await;
    assert!(refused.status().is_client_error());
    let wanted = BTreeSet::from([
        "gen_ai.server.request.duration",
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "gen_ai.client.token.usage",
        "flotilla.request.energy",
        "flotilla.replica.decode.duration",
        "flotilla.replica.requests",
        "hw.host.energy",
        "hw.host.power",
        "flotilla.energy.attributed",
    ]);
    collector
        .wait_for(|told| {
            let names: BTreeSet<_> = told.metrics.iter().map(|(_, m)| m.name.as_str()).collect();
            if !wanted.is_subset(&names) {
                return None;
            }
            for (_, metric) in &told.metrics {
                let known = names::ALL.iter().find(|known| known.name == metric.name);
                let known = known.unwrap_or_else(|| panic!("{} is not in the table", metric.name));
                assert_eq!(metric.unit, known.unit, "{}", metric.name);
                let (kind, attributes) = points(metric.data.as_ref().expect("data"), known.buckets);
                assert_eq!(kind, known.kind, "{}", metric.name);
                for (key, value) in attributes {
                    assert!(
                        known.attributes.contains(&key.as_str()),
                        "{} of {}",
                        key,
                        metric.name
                    );
                    assert!(
                        !value.contains("anybody"),
                        "a client's text is a label: {value}"
                    );
                }
            }
            Some(())
        })
        .await;
    cluster.stop().await;
}

/// The kind of a metric and all its attributes. A histogram's buckets are checked.
fn points(data: &Data, buckets: &[f64]) -> (InstrumentKind, Vec<(String, String)>) {
    let mut attributes = Vec::new();
    let mut take = |of: &[opentelemetry_proto::tonic::common::v1::KeyValue]| {
        let keys = of.iter().map(|a| a.key.clone());
        attributes
            .extend(keys.map(|key| (key.clone(), attribute_text(of, &key).unwrap_or_default())));
    };
    let kind = match data {
        Data::Histogram(histogram) => {
            for point in &histogram.data_points {
                assert_eq!(point.explicit_bounds, buckets);
                take(&point.attributes);
            }
            InstrumentKind::Histogram
        }
        Data::Sum(sum) => {
            assert!(sum.is_monotonic);
            sum.data_points
                .iter()
                .for_each(|point| take(&point.attributes));
            InstrumentKind::Counter
        }
        Data::Gauge(gauge) => {
            gauge
                .data_points
                .iter()
                .for_each(|point| take(&point.attributes));
            InstrumentKind::Gauge
        }
        other => panic!("{other:?}"),
    };
    (kind, attributes)
}

// Reading what a process says blocks: the collector needs a thread of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_collector_costs_only_the_data_is_told_of_once_and_is_used_again() {
    let address = free_address();
    let endpoint = format!("http://{address}");
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .env(&variables(&endpoint))
        .agents(["n1"])
        .start()
        .await;
    let api = cluster.api();
    api.apply(&simulated_model("m", 1, &json!({"outputTokens": 5})))
        .await;
    cluster.wait_for_replicas("m", 1).await;
    for _ in 0..20 {
        ask(&cluster, "m", None, false).await;
    }
    let warning = "the telemetry collector is unreachable";
    cluster.agent_mut("n1").wait_for_line(warning);
    let collector = Collector::start(address).await;
    cluster
        .agent_mut("n1")
        .wait_for_line("the telemetry collector is reachable again");
    ask(
        &cluster,
        "m",
        Some(&format!("00-{TRACE}-{CLIENT}-01")),
        false,
    )
    .await;
    collector
        .wait_for(|told| of_trace(told, TRACE).get("chat m").map(|_| ()))
        .await;
    let complaints = cluster.agent_mut("n1").count_lines(warning);
    assert_eq!(complaints, 1, "it was told of once");
    cluster.stop().await;
}

#[test]
fn log_lines_are_objects_for_machines() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = format!("embedded:{}", dir.path().join("store").display());
    let any = "127.0.0.1:0";
    let args = [
        "controller",
        "--http",
        any,
        "--link",
        any,
        "--store",
        &store,
    ];
    let variables = [("FLOTILLA_LOG_FORMAT".to_owned(), "json".to_owned())];
    let mut controller = Process::start_with_env(dir.path(), &args, &variables);
    let line = controller.wait_for_line("\"ready\"");
    let line: serde_json::Value = serde_json::from_str(&line).expect("an object");
    assert_eq!(
        (&line["message"], &line["level"]),
        (&json!("ready"), &json!("INFO"))
    );
    assert!(
        line["http"]
            .as_str()
            .is_some_and(|http| http.starts_with("127.0.0.1:")),
        "{line}"
    );
}
