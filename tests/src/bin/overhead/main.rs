//! What Flotilla adds to a request: an agent with the simulated engine asked directly over gRPC,
//! and the same agent through HTTP and the controller. 9 output tokens, streamed and not, at
//! 1 and 32 connections, all in one run on one machine, load generator included. Then what telemetry
//! costs: the same fleet with it off, and with metrics, OTLP and one trace in a hundred.
//!
//! `cargo run --release --workspace --bin overhead [SECONDS]`

mod telemetry;

use std::time::Duration;

use flotilla_controller::fleet::FleetHandle;
use flotilla_controller::{Controller, ControllerConfig, StoreAddress};
use flotilla_core::ModelName;
use flotilla_core::generate::{ChatMessage, GenerateInput, GenerateRequest};
use flotilla_proto::v1;
use flotilla_tests::http_load::{Connection, Measured, measure};
use flotilla_tests::{Cluster, Mode, Process, simulated_model};
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
    grpc(time).await;
    http(time).await;
    telemetry::measure(6 * time).await;
}

fn print(what: &str, measured: &Measured) {
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{what:<44}{:>12.0}{:>10.0}{:>10.0}",
        measured.requests_per_second,
        micros(measured.p50),
        micros(measured.p99)
    );
}

fn name(stream: bool) -> &'static str {
    if stream { "streamed" } else { "whole" }
}

/// An agent asked directly: this process is its controller, without HTTP.
async fn grpc(time: Duration) {
    let dir = tempfile::tempdir().expect("a directory");
    let any = ([127, 0, 0, 1], 0).into();
    let controller = Controller::start(ControllerConfig {
        http: any,
        link: any,
        store: StoreAddress::Embedded(dir.path().join("store")),
        ..ControllerConfig::default()
    })
    .await
    .expect("a controller");
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
        .expect("a store");
    let fleet = controller.fleet();
    until_ready(fleet).await;
    for connections in [1, 32] {
        for stream in [false, true] {
            let workers = (0..connections).map(|_| {
                let view = fleet.view();
                let replica = view.models[MODEL].endpoints.replicas()[0].clone();
                let request = request(stream);
                async move || {
                    let request = tonic::Request::new(request.clone());
                    let responses = replica.transport.generate(request).await;
                    let mut responses = responses.expect("an answer");
                    while let Some(response) = responses.next().await {
                        response.expect("an event");
                    }
                }
            });
            let measured = measure(time, workers.collect()).await;
            let what = format!("agent over gRPC, {connections} at once, {}", name(stream));
            print(&what, &measured);
        }
    }
    controller.stop().await;
}

async fn until_ready(fleet: &FleetHandle) {
    let mut changes = fleet.changes();
    while fleet
        .view()
        .models
        .get(MODEL)
        .is_none_or(|m| m.endpoints.replicas().is_empty())
    {
        changes.changed().await.expect("a running fleet");
    }
}

fn request(stream: bool) -> v1::GenerateRequest {
    let request = GenerateRequest {
        stream,
        ..GenerateRequest::new(
            ModelName::new(MODEL).expect("a name"),
            GenerateInput::Chat(vec![ChatMessage {
                role: "user".into(),
                content: "hello".into(),
                ..ChatMessage::default()
            }]),
        )
    };
    (&request).into()
}

/// The same through HTTP and the controller, each a process of its own.
async fn http(time: Duration) {
    let cluster = Cluster::start(Mode::Processes, &["n1"]).await;
    serve(&cluster).await;
    for connections in [1, 32] {
        for stream in [false, true] {
            let measured = load(&cluster, time, connections, stream).await;
            let what = format!(
                "HTTP → controller → agent, {connections} at once, {}",
                name(stream)
            );
            print(&what, &measured);
        }
    }
    cluster.stop().await;
}

async fn serve(cluster: &Cluster) {
    let api = cluster.api();
    let mut model = simulated_model(MODEL, 1, &json!({"outputTokens": 9}));
    model["spec"]["concurrency"] = json!(1_000);
    api.apply(&model).await;
    cluster.until(async || api.ready(MODEL).await == 1).await;
}

async fn load(cluster: &Cluster, time: Duration, connections: usize, stream: bool) -> Measured {
    let body = json!({
        "model": MODEL, "stream": stream,
        "messages": [{"role": "user", "content": "hello"}],
    });
    let body = body.to_string();
    let mut workers = Vec::new();
    for _ in 0..connections {
        let opened = Connection::open(cluster.http(), "/v1/chat/completions", &body);
        let mut connection = opened.await;
        workers.push(async move || connection.exchange().await);
    }
    measure(time, workers).await
}
