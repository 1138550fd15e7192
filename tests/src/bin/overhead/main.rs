//! Measures what Flotilla adds to a request. Sends requests to an agent with the simulated engine
//! directly over gRPC, and to the same agent through HTTP and the controller: 9 output tokens, streamed
//! and not, at 1 and 32 connections, all in one run on one machine, load generator included. Then
//! measures the cost of telemetry: the same fleet without it, and with metrics, OTLP and one trace in a
//! hundred.
//!
//! `cargo run --release --workspace --bin overhead [SECONDS]`

mod telemetry;

use std::time::Duration;

use flotilla_controller::fleet::FleetHandle;
use flotilla_controller::{Controller, ControllerConfig, StoreAddress};
use flotilla_core::ModelName;
use flotilla_core::generate::{ChatMessage, GenerateInput, GenerateRequest};
use flotilla_proto::v1;
use flotilla_tests::http_load::{Connection, LoadMeasurement, measure};
use flotilla_tests::{Cluster, Mode, Process, any_port, simulated_model};
use futures::StreamExt;
use serde_json::json;

const MODEL: &str = "instant";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(5.0));
    println!(
        "{:<44}{:>12}{:>10}{:>10}",
        "", "requests/s", "p50 µs", "p99 µs"
    );
    measure_grpc(time).await;
    measure_http(time).await;
    telemetry::measure(6 * time).await;
}

fn print(name: &str, measured: &LoadMeasurement) {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{name:<44}{:>12.0}{:>10.0}{:>10.0}",
        measured.requests_per_second,
        micros(measured.p50),
        micros(measured.p99)
    );
}

fn answer_form(stream: bool) -> &'static str {
    if stream { "streamed" } else { "whole" }
}

/// Measures an agent alone. This process is its controller and calls it without HTTP.
async fn measure_grpc(time: Duration) {
    let dir = tempfile::tempdir().expect("a temporary directory can be created");
    let controller = Controller::start(ControllerConfig {
        http: any_port(),
        link: any_port(),
        store: StoreAddress::Embedded(dir.path().join("store")),
        data_dir: dir.path().join("store"),
        ..ControllerConfig::default()
    })
    .await
    .expect("the controller starts");
    let link = controller.link().to_string();
    let data = dir.path().join("agent").display().to_string();
    let args = [
        "agent",
        "--join",
        &link,
        "--name",
        "n1",
        "--data-dir",
        &data,
    ];
    let _agent = Process::start(dir.path(), &args);
    let spec = json!({"outputTokens": 9});
    let resource = flotilla_core::spec::Resource::from_json(simulated_model(MODEL, 1, &spec));
    let model = resource.and_then(flotilla_core::spec::Model::try_from);
    let mut model = model.expect("a valid model");
    model.spec.concurrency = 1_000;
    controller
        .desired_state()
        .apply(&flotilla_core::spec::Resource::Model(model))
        .await
        .expect("the store accepts the model");
    let fleet = controller.fleet();
    wait_until_ready(fleet).await;
    for connections in [1, 32] {
        for stream in [false, true] {
            let workers = (0..connections).map(|_| {
                let view = fleet.view();
                let replica = view.models[MODEL].endpoints.replicas()[0].clone();
                let request = request(stream);
                async move || {
                    let request = tonic::Request::new(request.clone());
                    let responses = replica.transport.generate(request).await;
                    let mut responses = responses.expect("the agent answers");
                    while let Some(response) = responses.next().await {
                        response.expect("an event");
                    }
                }
            });
            let measured = measure(time, workers.collect()).await;
            let name = format!(
                "agent over gRPC, {connections} connections, {}",
                answer_form(stream)
            );
            print(&name, &measured);
        }
    }
    controller.stop().await;
}

/// Waits until a replica can be selected.
async fn wait_until_ready(fleet: &FleetHandle) {
    let mut changes = fleet.changes();
    while fleet
        .view()
        .models
        .get(MODEL)
        .is_none_or(|m| m.endpoints.replicas().is_empty())
    {
        changes.changed().await.expect("the fleet runs");
    }
}

fn request(stream: bool) -> v1::GenerateRequest {
    let request = GenerateRequest {
        stream,
        ..GenerateRequest::new(
            ModelName::new(MODEL).expect("a valid name"),
            GenerateInput::Chat(vec![ChatMessage {
                role: "user".into(),
                content: "hello".into(),
                ..ChatMessage::default()
            }]),
        )
    };
    (&request).into()
}

/// Measures the agent through HTTP and the controller, each a process of its own.
async fn measure_http(time: Duration) {
    let cluster = Cluster::builder()
        .mode(Mode::Processes)
        .agents(["n1"])
        .start()
        .await;
    serve_model(&cluster).await;
    for connections in [1, 32] {
        for stream in [false, true] {
            let measured = measure_chat(&cluster, time, connections, stream).await;
            let name = format!(
                "HTTP → controller → agent, {connections} connections, {}",
                answer_form(stream)
            );
            print(&name, &measured);
        }
    }
    cluster.stop().await;
}

/// Applies the model and waits until it is served.
async fn serve_model(cluster: &Cluster) {
    let api = cluster.api();
    let mut model = simulated_model(MODEL, 1, &json!({"outputTokens": 9}));
    model["spec"]["concurrency"] = json!(1_000);
    api.apply(&model).await;
    cluster.wait_for_replicas(MODEL, 1).await;
}

/// Measures chat requests over this many connections for `time`.
async fn measure_chat(
    cluster: &Cluster,
    time: Duration,
    connections: usize,
    stream: bool,
) -> LoadMeasurement {
    let body = json!({
        "model": MODEL, "stream": stream,
        "messages": [{"role": "user", "content": "hello"}],
    });
    let body = body.to_string();
    let mut workers = Vec::new();
    for _ in 0..connections {
        let opened = Connection::open(cluster.http_address(), "/v1/chat/completions", &body);
        let mut connection = opened.await;
        workers.push(async move || connection.exchange().await);
    }
    measure(time, workers).await
}
