//! The traces and metrics of real requests, as an OTLP collector receives them.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_telemetry::names::{self, InstrumentKind};
use flotilla_tests::collector::{Collector, ReceivedTelemetry, attribute_text};
use flotilla_tests::{
    AgentSettings, Cluster, Mode, Process, any_port, free_address, simulated_model,
};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::json;

use crate::fixtures::task;

/// The trace id of a client.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
/// The id of the client's span.
const CLIENT_SPAN: &str = "00f067aa0ba902b7";

/// Variables that send telemetry to this endpoint without much delay.
fn export_variables(endpoint: &str) -> Vec<(&str, &str)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "200"),
    ]
}

/// Starts a fleet of one node with a model `m`, whose members send telemetry to `collector`.
async fn observed_cluster(collector: &Collector, more: &[(&str, &str)]) -> Cluster {
    let endpoint = collector.endpoint();
    let mut variables = export_variables(&endpoint);
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

/// Sends a chat request and returns the body of the answer.
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
    let response = request.send().await.expect("a response");
    assert_eq!(response.status(), 200);
    response.text().await.expect("a response")
}

/// Returns the spans of a trace by their names, each with its service.
fn spans_of_trace<'a>(
    received: &'a ReceivedTelemetry,
    trace: &str,
) -> BTreeMap<&'a str, &'a (String, Span)> {
    let spans = received
        .spans
        .iter()
        .filter(|(_, s)| hex::encode(&s.trace_id) == trace);
    spans.map(|entry| (entry.1.name.as_str(), entry)).collect()
}

#[tokio::test]
async fn request_is_one_trace_from_the_client_to_the_last_token() {
    let collector = Collector::start(any_port()).await;
    let cluster = observed_cluster(&collector, &[]).await;
    let api = cluster.api();
    let spec = |models: &[&str], examples: &[&str]| json!({"models": models, "examples": examples});
    let help = spec(&["m"], &["where is my card", "i need help with a card"]);
    api.apply(&task("help", help)).await;
    let sums = spec(&["m"], &["what is one and two", "add three to four"]);
    api.apply(&task("sums", sums)).await;
    let is_trained = async || {
        let body = json!({"model": "auto", "messages": [{"role": "user", "content": "my card"}]});
        let response = api.post("v1/route", &body).await;
        let dry_run: serde_json::Value = response.json().await.unwrap_or_default();
        dry_run["task"] == "help"
    };
    cluster.wait_until(is_trained).await;
    let traceparent = format!("00-{TRACE}-{CLIENT_SPAN}-01");
    ask(&cluster, "auto", Some(&traceparent), true).await;

    const ROOT: &str = "POST /v1/chat/completions";
    let parents = [
        (ROOT, CLIENT_SPAN),
        ("classify", ROOT),
        ("route", ROOT),
        ("forward", ROOT),
        ("chat m", "forward"),
        ("queue", "chat m"),
        ("prefill", "chat m"),
        ("decode", "chat m"),
    ];
    collector
        .wait_for(|received| {
            let spans = spans_of_trace(received, TRACE);
            if !parents.iter().all(|(name, _)| spans.contains_key(name)) {
                return None;
            }
            for (name, parent) in parents {
                let parent_id = hex::encode(&spans[name].1.parent_span_id);
                let expected_id = match spans.get(parent) {
                    Some((_, parent)) => hex::encode(&parent.span_id),
                    None => CLIENT_SPAN.to_owned(),
                };
                assert_eq!(parent_id, expected_id, "the parent of {name} is {parent}");
            }
            let attribute = |name: &str, key: &str| {
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
                assert_eq!(attribute(ROOT, key), value, "{key}");
            }
            assert_eq!(attribute("chat m", "flotilla.node"), "n1");
            assert!(!attribute(ROOT, "flotilla.decision.id").is_empty());
            // Prefill and decode follow each other within the request.
            let (prefill, decode) = (&spans["prefill"].1, &spans["decode"].1);
            assert!(prefill.end_time_unix_nano <= decode.start_time_unix_nano);
            assert!(decode.end_time_unix_nano <= spans[ROOT].1.end_time_unix_nano);
            let text: String = spans
                .values()
                .map(|(_, span)| format!("{span:?}"))
                .collect();
            assert!(!text.contains("secret"), "the prompt is in a trace");
            Some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn content_is_sent_only_when_enabled_and_never_for_zoned_requests() {
    let collector = Collector::start(any_port()).await;
    let capture = ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true");
    let mut cluster = observed_cluster(&collector, &[capture]).await;
    cluster.start_agent(AgentSettings::new("n2").args(&["--zone", "clinic"]));
    cluster.wait_until_ready(&["n2"]).await;
    let api = cluster.api();
    api.apply(&simulated_model("z", 2, &json!({"outputTokens": 5})))
        .await;
    cluster.wait_for_replicas("z", 2).await;
    api.apply(&task(
        "zoned",
        json!({"models": ["z"], "zones": ["clinic"]}),
    ))
    .await;
    let zoned_trace = TRACE.replace('4', "5");
    ask(
        &cluster,
        "task:zoned",
        Some(&format!("00-{zoned_trace}-{CLIENT_SPAN}-01")),
        false,
    )
    .await;
    ask(
        &cluster,
        "m",
        Some(&format!("00-{TRACE}-{CLIENT_SPAN}-01")),
        false,
    )
    .await;
    collector
        .wait_for(|received| {
            let (unzoned, zoned) = (
                spans_of_trace(received, TRACE),
                spans_of_trace(received, &zoned_trace),
            );
            let root = "POST /v1/chat/completions";
            let (_, unzoned) = unzoned.get(root)?;
            zoned.get(root)?;
            let input =
                attribute_text(&unzoned.attributes, "gen_ai.input.messages").unwrap_or_default();
            assert!(input.contains("secret card"), "{unzoned:?}");
            assert!(
                attribute_text(&unzoned.attributes, "gen_ai.output.messages").is_some(),
                "{unzoned:?}"
            );
            let zoned: String = zoned
                .values()
                .map(|(_, span)| format!("{span:?}"))
                .collect();
            assert!(
                !zoned.contains("secret") && !zoned.contains("messages"),
                "{zoned}"
            );
            Some(())
        })
        .await;
    cluster.stop().await;
}

#[tokio::test]
async fn metrics_have_the_names_units_buckets_and_attributes_of_the_table() {
    let collector = Collector::start(any_port()).await;
    let cluster = observed_cluster(&collector, &[("OTEL_TRACES_SAMPLER", "always_off")]).await;
    ask(&cluster, "m", None, false).await;
    ask(&cluster, "m", None, true).await;
    let invalid = json!({"model": "no-such-model-of-anybody", "messages": []});
    let refused = cluster.api().post("v1/chat/completions", &invalid).await;
    assert!(refused.status().is_client_error());
    let expected = BTreeSet::from([
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
        .wait_for(|received| {
            let names: BTreeSet<_> = received
                .metrics
                .iter()
                .map(|(_, m)| m.name.as_str())
                .collect();
            if !expected.is_subset(&names) {
                return None;
            }
            for (_, metric) in &received.metrics {
                let definition = names::ALL.iter().find(|m| m.name == metric.name);
                let definition =
                    definition.unwrap_or_else(|| panic!("{} is not in the table", metric.name));
                assert_eq!(metric.unit, definition.unit, "{}", metric.name);
                let (kind, attributes) =
                    kind_and_attributes(metric.data.as_ref().expect("data"), definition.buckets);
                assert_eq!(kind, definition.kind, "{}", metric.name);
                for (key, value) in attributes {
                    assert!(
                        definition.attributes.contains(&key.as_str()),
                        "{} of {}",
                        key,
                        metric.name
                    );
                    assert!(
                        !value.contains("anybody"),
                        "text of a client is a label: {value}"
                    );
                }
            }
            Some(())
        })
        .await;
    cluster.stop().await;
}

/// Returns the kind of a metric and the attributes of all its points. Checks the buckets of a histogram.
fn kind_and_attributes(data: &Data, buckets: &[f64]) -> (InstrumentKind, Vec<(String, String)>) {
    let mut attributes = Vec::new();
    let mut collect = |pairs: &[opentelemetry_proto::tonic::common::v1::KeyValue]| {
        let keys = pairs.iter().map(|a| a.key.clone());
        attributes
            .extend(keys.map(|key| (key.clone(), attribute_text(pairs, &key).unwrap_or_default())));
    };
    let kind = match data {
        Data::Histogram(histogram) => {
            for point in &histogram.data_points {
                assert_eq!(point.explicit_bounds, buckets);
                collect(&point.attributes);
            }
            InstrumentKind::Histogram
        }
        Data::Sum(sum) => {
            assert!(sum.is_monotonic);
            sum.data_points
                .iter()
                .for_each(|point| collect(&point.attributes));
            InstrumentKind::Counter
        }
        Data::Gauge(gauge) => {
            gauge
                .data_points
                .iter()
                .for_each(|point| collect(&point.attributes));
            InstrumentKind::Gauge
        }
        other => panic!("{other:?}"),
    };
    (kind, attributes)
}

// Reading the output of a process blocks its thread, and the collector needs another one.
#[tokio::test(flavor = "multi_thread")]
async fn unreachable_collector_is_logged_once_and_used_again_when_it_returns() {
    let address = free_address();
    let endpoint = format!("http://{address}");
    let mut cluster = Cluster::builder()
        .mode(Mode::Processes)
        .env(&export_variables(&endpoint))
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
        Some(&format!("00-{TRACE}-{CLIENT_SPAN}-01")),
        false,
    )
    .await;
    collector
        .wait_for(|received| spans_of_trace(received, TRACE).get("chat m").map(|_| ()))
        .await;
    let warnings = cluster.agent_mut("n1").count_lines(warning);
    assert_eq!(warnings, 1);
    cluster.stop().await;
}

#[test]
fn log_lines_are_json_objects_when_that_is_enabled() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = format!("embedded:{}", dir.path().join("store").display());
    let any_port = "127.0.0.1:0";
    let args = [
        "controller",
        "--http",
        any_port,
        "--link",
        any_port,
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
