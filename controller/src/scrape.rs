//! `/metrics`: of this controller, of the fleet as it sees it, and of every node that is linked to
//! it, which no scraper may be able to reach.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::HeaderName;
use axum::routing::get;
use flotilla_proto::v1::MetricsRequest;
use flotilla_telemetry::KeyValue;
use flotilla_telemetry::instruments::{RecordValue, observe_counts};
use flotilla_telemetry::metrics::Meter;
use flotilla_telemetry::names::{self, MetricDefinition, attr};
use flotilla_telemetry::prometheus::{self, PrometheusRegistry};
use futures::{StreamExt, stream};
use http::header::CONTENT_TYPE;
use serde::Deserialize;

use crate::fleet::{FleetHandle, FleetView, NodeLink, NodePhase};

/// Longest a node is waited for: the others' metrics are not to be late for one.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest all are waited for: Prometheus gives a scrape 10 s.
const ALL_WITHIN: Duration = Duration::from_secs(5);
/// Nodes that are asked at once.
const AT_ONCE: usize = 64;

#[derive(Clone)]
struct Scrape {
    exposition: PrometheusRegistry,
    fleet: FleetHandle,
}

#[derive(Deserialize)]
struct ScrapeQuery {
    /// Whether nodes' metrics are wanted too.
    #[serde(default = "yes")]
    nodes: bool,
}

fn yes() -> bool {
    true
}

/// The route of the metrics.
pub(crate) fn router(exposition: PrometheusRegistry, fleet: FleetHandle) -> Router {
    let scrape = Scrape { exposition, fleet };
    Router::new()
        .route("/metrics", get(metrics))
        .with_state(scrape)
}

async fn metrics(
    State(scrape): State<Scrape>,
    Query(wanted): Query<ScrapeQuery>,
) -> ([(HeaderName, &'static str); 1], String) {
    let text = if wanted.nodes {
        let told = of_nodes(&scrape.fleet).await;
        scrape.exposition.encode_text_with_nodes(told)
    } else {
        scrape.exposition.encode_text()
    };
    ([(CONTENT_TYPE, prometheus::CONTENT_TYPE)], text)
}

/// What the linked nodes tell, those that answer in time.
async fn of_nodes(fleet: &FleetHandle) -> BTreeMap<String, Vec<u8>> {
    let view = fleet.view();
    let linked = view.nodes.iter().filter_map(|(name, node)| {
        let link = node.link.clone()?;
        Some((name.to_string(), link))
    });
    let linked: Vec<_> = linked.collect();
    drop(view);
    stream::iter(linked)
        .map(|(name, link)| async move { Some((name, of_node(&link).await?)) })
        .buffer_unordered(AT_ONCE)
        .take_until(tokio::time::sleep(ALL_WITHIN))
        .filter_map(std::future::ready)
        .collect()
        .await
}

async fn of_node(link: &NodeLink) -> Option<Vec<u8>> {
    let mut client = link.client()?;
    let asked = client.metrics(MetricsRequest {});
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(reply)) => Some(reply.into_inner().metric_families),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Tells what the fleet is like, whenever somebody asks.
pub(crate) fn register(meter: &Meter, fleet: &FleetHandle, id: &str) {
    gauge(meter, fleet, &names::PENDING_REQUESTS, |view, tell| {
        for (name, model) in &view.models {
            tell(u64::from(model.waiting), &[of(attr::MODEL, name)]);
        }
    });
    gauge(meter, fleet, &names::FLEET_NODES, |view, tell| {
        let mut states: BTreeMap<&str, u64> = BTreeMap::new();
        for node in view.nodes.values() {
            *states.entry(node.phase.as_str()).or_default() += 1;
        }
        for (state, nodes) in states {
            tell(nodes, &[KeyValue::new(attr::STATE, state.to_lowercase())]);
        }
    });
    gauge(meter, fleet, &names::NODE_READY, |view, tell| {
        for (name, node) in &view.nodes {
            let ready = u64::from(node.phase == NodePhase::Ready);
            let zone = node.record.zone.as_ref().map(ToString::to_string);
            let zone = KeyValue::new(attr::ZONE, zone.unwrap_or_default());
            tell(ready, &[of(attr::NODE, name), zone]);
        }
    });
    gauge(meter, fleet, &names::REPLICAS_DESIRED, |view, tell| {
        for (name, model) in &view.models {
            tell(model.assigned.len() as u64, &[of(attr::MODEL, name)]);
        }
    });
    gauge(meter, fleet, &names::REPLICAS_READY, |view, tell| {
        for (name, model) in &view.models {
            tell(
                model.endpoints.replicas().len() as u64,
                &[of(attr::MODEL, name)],
            );
        }
    });
    gauge(meter, fleet, &names::STORE_AVAILABLE, |view, tell| {
        let available = view.synced && view.store_problem.is_none();
        tell(u64::from(available), &[]);
    });
    let id = id.to_owned();
    gauge(meter, fleet, &names::LEADER, move |view, tell| {
        tell(u64::from(view.leader.as_deref() == Some(&id)), &[]);
    });
}

fn of(attribute: &'static str, name: &impl ToString) -> KeyValue {
    KeyValue::new(attribute, name.to_string())
}

/// Has `read` tell of the view.
fn gauge(
    meter: &Meter,
    fleet: &FleetHandle,
    metric: &MetricDefinition,
    read: impl Fn(&FleetView, RecordValue<'_, u64>) + Send + Sync + 'static,
) {
    let fleet = fleet.clone();
    observe_counts(meter, metric, move |tell| read(&fleet.view(), tell));
}
