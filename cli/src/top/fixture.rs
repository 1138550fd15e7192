//! Fleets for tests.

use std::time::Instant;

use flotilla_controller::admin::{ModelResource, NodeResource, RequestSummary, TrafficPoint};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::feed::{Event, Whole};
use super::link::News;
use super::state::State;

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(super) fn node(name: &str) -> NodeResource {
    read(json!({
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
    read(json!({
        "apiVersion": "flotilla.dev/v1",
        "kind": "Model",
        "metadata": {"name": name},
        "spec": {"description": "a customer's message -> what it is about"},
        "status": {
            "phase": "Ready", "ready": 2, "created": 1, "assigned": 2,
            "replicas": [
                {"node": "till-1", "phase": "Ready", "counters": counters(1, 0)},
                {"node": "till-2", "phase": "Ready", "counters": counters(0, 0)},
            ],
        },
    }))
}

/// The second `at` seconds after 1970.
pub(super) fn point(at: u64) -> TrafficPoint {
    let busy = at % 7;
    read(json!({
        "at": at * 1_000, "requests": 3 * busy, "errors": 0, "promptTokens": 90,
        "outputTokens": 12 * busy, "inFlight": 2, "queued": 0,
        "firstTokenMs": {"p50": 8.0, "p95": 20.0 + busy as f64, "p99": 31.0},
        "perTokenMs": null, "totalMs": null, "joules": 4.5, "estimatedJoules": 1.5,
        "co2Grams": null, "cost": null, "watts": 42.5, "estimatedWatts": 6.0,
    }))
}

pub(super) fn brief(id: &str) -> RequestSummary {
    read(json!({
        "id": id, "at": 36_610_000, "requested": "auto", "task": "bank-support",
        "model": "support", "node": "till-1", "end": "answered", "firstTokenMs": 8.25,
        "totalMs": 61.0, "completionTokens": 3, "joules": 0.75, "joulesSource": "rapl",
        "tiers": 0, "hedged": false, "candidates": 2, "rejected": 1,
    }))
}

/// The first event of the controller that was started at `started_at`.
pub(super) fn whole(
    started_at: u64,
    nodes: Vec<NodeResource>,
    models: Vec<ModelResource>,
) -> Event {
    let mut whole: Whole = read(json!({
        "controller": {"id": "c0ffee", "version": "0.1.0", "startedAt": started_at},
        "controllers": [{
            "id": "c0ffee", "leader": true, "local": true,
            "link": "127.0.0.1:7070", "http": "127.0.0.1:8080", "version": "0.1.0",
        }],
        "nodes": [], "models": [],
    }));
    (whole.nodes, whole.models) = (nodes, models);
    Event::Fleet(Box::new(whole))
}

fn told(events: Vec<Event>) -> State {
    let mut state = State::new("http://fleet.example:8080");
    state.apply(News::Heard(events), Instant::now());
    state
}

/// Nobody is there yet.
pub(super) fn empty() -> State {
    told(vec![whole(1, vec![], vec![]), Event::Decisions(vec![])])
}

/// Three nodes, one of them lost and one hot on a battery; a model that serves and one that failed.
pub(super) fn busy() -> State {
    let mut first = node("till-1");
    first.status.models[0].counters = read(counters(2, 1));
    first.spec.zone = Some(read(json!("shop")));
    let mut second = node("till-2");
    second.status.operation.draining = true;
    second.status.energy.as_mut().unwrap().battery =
        Some(read(json!({"charge": 0.15, "discharging": true})));
    second.status.energy.as_mut().unwrap().throttled = "thermal".into();
    let mut third = node("clinic-7");
    third.status.phase = "Lost".into();
    third.status.energy.as_mut().unwrap().measured = false;
    third.status.energy.as_mut().unwrap().source = read(json!("rapl+estimate"));
    let mut failed = model("triage");
    (failed.status.phase, failed.status.ready) = ("Failed".into(), 0);
    failed.status.waiting = 4;
    failed.status.replicas[0].problem = "the tokenizer is missing".into();
    let usage = read(json!({
        "since": 1, "tasks": [], "nodes": [],
        "models": [{
            "name": "support", "requests": 1234, "errors": 2, "promptTokens": 9, "outputTokens": 600,
            "joules": 90.0, "estimatedJoules": 30.0, "co2Grams": null, "cost": null,
        }],
    }));
    let mut error = brief("d-2");
    error.end = read(json!("failed"));
    (error.error, error.first_token_ms) = (Some("no replica is ready".into()), None);
    let mut hedged = brief("d-3");
    (hedged.hedged, hedged.tiers) = (true, 1);
    hedged.joules_source = Some("estimate".into());
    told(vec![
        whole(
            1,
            vec![first, second, third],
            vec![model("support"), failed],
        ),
        Event::Traffic((7_000..7_300).map(point).collect()),
        Event::Usage(usage),
        Event::Decisions(vec![brief("d-1"), error, hedged]),
    ])
}

/// A fleet in which everyone who can writes what they should not.
pub(super) fn hostile() -> State {
    let bad = "x\u{1b}[2J\u{7}\r\n\u{9b}1m\u{202e}y";
    let mut one = node(bad);
    one.status.phase = bad.into();
    one.status.models[0].name = bad.into();
    one.status.energy.as_mut().unwrap().throttled = bad.into();
    let mut wrong = model("m");
    wrong.status.replicas[0].problem = bad.into();
    wrong.model.spec.description = bad.into();
    let mut asked = brief(bad);
    (asked.model, asked.error) = (Some(bad.into()), Some(bad.into()));
    let mut state = told(vec![
        whole(1, vec![one], vec![wrong]),
        Event::Decisions(vec![asked]),
    ]);
    state.notes = vec![bad.into()];
    state.url = bad.into();
    state
}

/// A thousand nodes.
pub(super) fn many() -> State {
    let nodes = (0..1_000).map(|n| node(&format!("node-{n:04}"))).collect();
    told(vec![whole(1, nodes, vec![model("support")])])
}
