//! `/metrics`: the metrics of this controller, of the fleet as it sees it, and of every node that is
//! linked to it. Nodes may be behind NAT, where no scraper reaches them, so their metrics are
//! collected over their links.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderName;
use axum::routing::get;
use flotilla_core::node::join_zones;
use flotilla_gateway::{ApiQuery, ApiRoutes, Operation};
use flotilla_identity::keys::Action;
use flotilla_proto::v1::MetricsRequest;
use flotilla_telemetry::KeyValue;
use flotilla_telemetry::instruments::{RecordValue, observe_counts};
use flotilla_telemetry::metrics::Meter;
use flotilla_telemetry::names::{self, MetricDefinition, attr};
use flotilla_telemetry::prometheus::{self, PrometheusRegistry};
use futures::{StreamExt, stream};
use http::header::CONTENT_TYPE;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::fleet::{FleetHandle, FleetView, NodeLink, NodePhase};

/// Longest wait for one node's metrics. A node that takes longer is left out.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for all nodes. Prometheus' own timeout for a scrape is 10 s.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Nodes that are queried in parallel.
const MAX_PARALLEL: usize = 64;

#[derive(Clone)]
struct ScrapeState {
    registry: PrometheusRegistry,
    fleet: FleetHandle,
}

#[derive(Deserialize, JsonSchema)]
struct ScrapeQuery {
    /// Whether to include the nodes' metrics. Default: `true`.
    #[serde(default = "include_nodes_default")]
    nodes: bool,
}

fn include_nodes_default() -> bool {
    true
}

/// The route of `/metrics`, which serves `registry` and the metrics of `fleet`'s nodes.
pub(crate) fn router(registry: PrometheusRegistry, fleet: FleetHandle) -> ApiRoutes {
    let state = ScrapeState { registry, fleet };
    let operation = Operation::new(
        Action::Read,
        "get",
        "/metrics",
        "Returns the metrics of the controller and the nodes, for Prometheus",
    )
    .query::<ScrapeQuery>()
    .returns_raw(200, prometheus::CONTENT_TYPE);
    ApiRoutes::new()
        .route(operation, get(metrics))
        .with_state(state)
}

async fn metrics(
    State(state): State<ScrapeState>,
    ApiQuery(query): ApiQuery<ScrapeQuery>,
) -> ([(HeaderName, &'static str); 1], String) {
    let text = if query.nodes {
        let nodes = collect_nodes(&state.fleet).await;
        state.registry.encode_text_with_nodes(nodes)
    } else {
        state.registry.encode_text()
    };
    ([(CONTENT_TYPE, prometheus::CONTENT_TYPE)], text)
}

/// The encoded metrics of all linked nodes that answer in time, by node name.
async fn collect_nodes(fleet: &FleetHandle) -> BTreeMap<String, Vec<u8>> {
    let view = fleet.view();
    let linked = view.nodes.iter().filter_map(|(name, node)| {
        let link = node.link.clone()?;
        Some((name.to_string(), link))
    });
    let linked: Vec<_> = linked.collect();
    drop(view);
    stream::iter(linked)
        .map(|(name, link)| async move { Some((name, collect_node(&link).await?)) })
        .buffer_unordered(MAX_PARALLEL)
        .take_until(tokio::time::sleep(TOTAL_TIMEOUT))
        .filter_map(std::future::ready)
        .collect()
        .await
}

/// The encoded metrics of one node. `None` when it does not answer in time.
async fn collect_node(link: &NodeLink) -> Option<Vec<u8>> {
    let mut client = link.client()?;
    let reply = client.metrics(MetricsRequest {});
    match tokio::time::timeout(NODE_TIMEOUT, reply).await {
        Ok(Ok(reply)) => Some(reply.into_inner().metric_families),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Registers the metrics of the fleet as the controller with this `id` sees it. They are read from
/// the view when they are collected.
pub(crate) fn register(meter: &Meter, fleet: &FleetHandle, id: &str) {
    gauge(meter, fleet, &names::PENDING_REQUESTS, |view, record| {
        for (name, model) in &view.models {
            record(u64::from(model.waiting), &[attribute(attr::MODEL, name)]);
        }
    });
    gauge(meter, fleet, &names::FLEET_NODES, |view, record| {
        let mut states: BTreeMap<&str, u64> = BTreeMap::new();
        for node in view.nodes.values() {
            *states.entry(node.phase.as_str()).or_default() += 1;
        }
        for (state, nodes) in states {
            record(nodes, &[KeyValue::new(attr::STATE, state.to_lowercase())]);
        }
    });
    gauge(meter, fleet, &names::NODES_HELD, |view, record| {
        let held = view.placement_hold.as_ref();
        record(held.map_or(0, |hold| hold.nodes.len()) as u64, &[]);
    });
    gauge(meter, fleet, &names::NODE_READY, |view, record| {
        for (name, node) in &view.nodes {
            let ready = u64::from(node.phase == NodePhase::Ready);
            let zone = KeyValue::new(attr::ZONE, join_zones(&node.record.spec.zones));
            record(ready, &[attribute(attr::NODE, name), zone]);
        }
    });
    gauge(meter, fleet, &names::REPLICAS_DESIRED, |view, record| {
        for (name, model) in &view.models {
            record(model.assigned.len() as u64, &[attribute(attr::MODEL, name)]);
        }
    });
    gauge(meter, fleet, &names::REPLICAS_READY, |view, record| {
        for (name, model) in &view.models {
            record(
                model.endpoints.replicas().len() as u64,
                &[attribute(attr::MODEL, name)],
            );
        }
    });
    gauge(meter, fleet, &names::STORE_AVAILABLE, |view, record| {
        record(u64::from(view.is_writable()), &[]);
    });
    let id = id.to_owned();
    gauge(meter, fleet, &names::LEADER, move |view, record| {
        record(u64::from(view.leader.as_deref() == Some(&id)), &[]);
    });
}

fn attribute(key: &'static str, name: &impl ToString) -> KeyValue {
    KeyValue::new(key, name.to_string())
}

/// Registers a gauge whose values `read` takes from the view.
fn gauge(
    meter: &Meter,
    fleet: &FleetHandle,
    metric: &MetricDefinition,
    read: impl Fn(&FleetView, RecordValue<'_, u64>) + Send + Sync + 'static,
) {
    let fleet = fleet.clone();
    observe_counts(meter, metric, move |record| read(&fleet.view(), record));
}
