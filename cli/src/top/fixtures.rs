//! Fleets and events for tests.

use std::time::Instant;

use flotilla_controller::admin::{ModelResource, NodeResource, RequestSummary, TrafficPoint};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::connection::FeedUpdate;
use super::feed::{FeedEvent, SnapshotEvent};
use super::state::LiveState;

fn parse<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(super) fn node(name: &str) -> NodeResource {
    parse(json!({
        "apiVersion": "flotilla.dev/v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {
            "memory": 8_u64 << 30, "accelerators": ["cpu"], "cores": 4,
            "cpu": "N100", "platform": "x86_64-linux", "version": "0.1.0",
        },
        "status": {
            "phase": "Ready",
            "models": [{
                "name": "support", "phase": "Ready", "memory": 300 << 20, "counters": counters(0, 0),
            }],
            "energy": {
                "watts": 12.25, "idleWatts": 4.0, "maxWatts": 20.0, "joules": 100.0,
                "attributedJoules": 10.0, "source": "rapl", "measured": true,
                "resolutionJoules": 0.0,
            },
        },
    }))
}

fn counters(active: u32, queued: u32) -> Value {
    json!({
        "active": active, "queued": queued, "requests": 7, "cancelled": 0, "failed": 0,
        "refused": 0, "promptTokens": 70, "outputTokens": 21,
    })
}

pub(super) fn model(name: &str) -> ModelResource {
    parse(json!({
        "apiVersion": "flotilla.dev/v1",
        "kind": "Model",
        "metadata": {"name": name},
        "spec": {"description": "a customer's message -> what it is about", "replicas": 2},
        "status": {
            "phase": "Ready", "ready": 2, "created": 1, "assigned": 2,
            "replicas": [
                {"node": "till-1", "phase": "Ready", "counters": counters(1, 0)},
                {"node": "till-2", "phase": "Ready", "counters": counters(0, 0)},
            ],
        },
    }))
}

/// Traffic of the second that starts at `unix_seconds`.
pub(super) fn point(unix_seconds: u64) -> TrafficPoint {
    let load = unix_seconds % 7;
    parse(json!({
        "at": unix_seconds * 1_000, "requests": 3 * load, "errors": 0, "promptTokens": 90,
        "outputTokens": 12 * load, "inFlight": 2, "queued": 0,
        "firstTokenMs": {"p50": 8.0, "p95": 20.0 + load as f64, "p99": 31.0},
        "perTokenMs": null, "totalMs": null, "joules": 4.5, "estimatedJoules": 1.5,
        "co2Grams": null, "cost": null, "watts": 42.5, "estimatedWatts": 6.0,
    }))
}

pub(super) fn decision(id: &str) -> RequestSummary {
    parse(json!({
        "id": id, "at": 36_610_000, "requestedModel": "auto", "task": "bank-support",
        "model": "support", "node": "till-1", "status": "answered", "firstTokenMs": 8.25,
        "totalMs": 61.0, "completionTokens": 3, "joules": 0.75, "joulesSource": "rapl",
        "cascadeTiers": 0, "hedged": false, "candidates": 2, "rejected": 1,
    }))
}

/// The first event of a controller that started at `started_at`.
pub(super) fn fleet_event(
    started_at: u64,
    nodes: Vec<NodeResource>,
    models: Vec<ModelResource>,
) -> FeedEvent {
    let mut fleet: SnapshotEvent = parse(json!({
        "controller": {"id": "c0ffee", "version": "0.1.0", "startedAt": started_at},
        "controllers": [{
            "id": "c0ffee", "leader": true, "local": true,
            "link": "127.0.0.1:7070", "http": "127.0.0.1:8080", "version": "0.1.0",
        }],
        "nodes": [], "models": [],
    }));
    (fleet.nodes, fleet.models) = (nodes, models);
    FeedEvent::Snapshot(Box::new(fleet))
}

fn state_after(events: Vec<FeedEvent>) -> LiveState {
    let mut state = LiveState::new("http://fleet.example:8080");
    state.apply(FeedUpdate::Events(events), Instant::now());
    state
}

/// A fleet without nodes and models.
pub(super) fn empty() -> LiveState {
    state_after(vec![
        fleet_event(1, vec![], vec![]),
        FeedEvent::Decisions(vec![]),
    ])
}

/// A fleet with three nodes, of which one is lost and one is hot and on battery, and with one ready
/// and one failed model.
pub(super) fn busy() -> LiveState {
    let mut first = node("till-1");
    first.status.models[0].counters = parse(counters(2, 1));
    first.spec.zones = parse(json!(["shop"]));
    let mut second = node("till-2");
    second.status.operation.draining = true;
    second.status.energy.as_mut().unwrap().battery =
        Some(parse(json!({"charge": 0.15, "discharging": true})));
    second.status.energy.as_mut().unwrap().throttle_reason = "thermal".into();
    let mut third = node("clinic-7");
    third.status.phase = "Lost".into();
    third.status.energy.as_mut().unwrap().measured = false;
    third.status.energy.as_mut().unwrap().source = parse(json!("rapl+estimate"));
    let mut failed = model("triage");
    (failed.status.phase, failed.status.ready) = ("Failed".into(), 0);
    failed.status.waiting = 4;
    failed.status.replicas[0].error = "the tokenizer is missing".into();
    let usage = parse(json!({
        "since": 1, "tasks": [], "nodes": [],
        "models": [{
            "name": "support", "requests": 1234, "errors": 2, "promptTokens": 9, "outputTokens": 600,
            "joules": 90.0, "estimatedJoules": 30.0, "co2Grams": null, "cost": null,
        }],
    }));
    let mut error = decision("d-2");
    error.status = parse(json!("failed"));
    (error.error, error.first_token_ms) = (Some("no replica is ready".into()), None);
    let mut hedged = decision("d-3");
    (hedged.hedged, hedged.cascade_tiers) = (true, 1);
    hedged.joules_source = Some("estimate".into());
    state_after(vec![
        fleet_event(
            1,
            vec![first, second, third],
            vec![model("support"), failed],
        ),
        FeedEvent::Traffic((7_000..7_300).map(point).collect()),
        FeedEvent::Usage(usage),
        FeedEvent::Decisions(vec![decision("d-1"), error, hedged]),
    ])
}

/// A fleet with control characters in all texts that nodes and clients provide.
pub(super) fn hostile() -> LiveState {
    let bad = "x\u{1b}[2J\u{7}\r\n\u{9b}1m\u{202e}y";
    let mut hostile_node = node(bad);
    hostile_node.status.phase = bad.into();
    hostile_node.status.models[0].name = bad.into();
    hostile_node.status.energy.as_mut().unwrap().throttle_reason = bad.into();
    let mut failed = model("m");
    failed.status.replicas[0].error = bad.into();
    failed.model.spec.description = bad.into();
    let mut request = decision(bad);
    (request.model, request.error) = (Some(bad.into()), Some(bad.into()));
    let mut state = state_after(vec![
        fleet_event(1, vec![hostile_node], vec![failed]),
        FeedEvent::Decisions(vec![request]),
    ]);
    state.notes = vec![bad.into()];
    state.url = bad.into();
    state
}

/// A fleet with a thousand nodes.
pub(super) fn many() -> LiveState {
    let nodes = (0..1_000).map(|n| node(&format!("node-{n:04}"))).collect();
    state_after(vec![fleet_event(1, nodes, vec![model("support")])])
}
