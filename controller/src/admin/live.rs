//! The live feed behind the page and `flotilla top`: server-sent events with a snapshot of the fleet
//! first, and its changes afterwards.
//!
//! | event | data | when |
//! | --- | --- | --- |
//! | `snapshot` | [`FleetSnapshot`] | first |
//! | `delta` | [`FleetDelta`] | twice a second at most, when something has changed |
//! | `traffic` | a list of [`TrafficPoint`](crate::traffic::TrafficPoint) | the history first, then every second |
//! | `usage` | [`UsageTotals`](crate::traffic::UsageTotals) | every two seconds, when it has changed |
//! | `decisions` | a list of [`RequestSummary`](crate::traffic::RequestSummary) | the recent ones first, then every second |

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use flotilla_core::energy::Currency;
use flotilla_gateway::{ApiRoutes, Operation};
use flotilla_telemetry::clock::unix_millis;
use futures::Stream;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::controllers::{ControllerResource, controllers};
use super::models::{ModelResource, models};
use super::nodes::{NodeResource, nodes};
use crate::fleet::{FleetHandle, FleetView};
use crate::traffic::{TrafficLog, TrafficTick};

/// How often the view is compared with what was sent.
const DELTA_INTERVAL: Duration = Duration::from_millis(500);
/// The same for a large fleet, as the cost of a comparison grows with the number of nodes.
const LARGE_FLEET_DELTA_INTERVAL: Duration = Duration::from_secs(2);
/// Number of nodes above which a fleet is large.
const LARGE_FLEET: usize = 200;
/// How often the usage totals are compared with what was sent.
const USAGE_INTERVAL: Duration = Duration::from_secs(2);
/// Silence after which a comment is sent, so that the reader sees that the feed is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct LiveFeed {
    fleet: FleetHandle,
    traffic: TrafficLog,
    controller: Arc<ControllerInfo>,
    stop: CancellationToken,
}

/// The controller that sends the feed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ControllerInfo {
    id: String,
    version: &'static str,
    /// In milliseconds since 1970.
    started_at: u64,
}

/// The route of the feed of the controller with this `id`. Open feeds end with `stop`.
pub(crate) fn router(
    fleet: FleetHandle,
    traffic: TrafficLog,
    id: String,
    stop: CancellationToken,
) -> ApiRoutes {
    let feed = LiveFeed {
        fleet,
        traffic,
        controller: Arc::new(ControllerInfo {
            id,
            version: env!("CARGO_PKG_VERSION"),
            started_at: unix_millis(),
        }),
        stop,
    };
    let operation = Operation::new(
        "get",
        "/api/v1/live",
        "Streams a snapshot of the fleet, and then its changes",
    )
    .returns_raw(200, "text/event-stream");
    ApiRoutes::new()
        .route(operation, get(stream))
        .with_state(feed)
}

/// The state of the whole fleet.
#[derive(Serialize)]
struct FleetSnapshot<'a> {
    controller: &'a ControllerInfo,
    controllers: Vec<ControllerResource>,
    grid: GridJson,
    notes: Vec<String>,
    nodes: Vec<NodeResource>,
    models: Vec<ModelResource>,
    /// Names of all tasks.
    tasks: Vec<String>,
}

#[derive(Serialize)]
struct GridJson {
    /// Currency of all costs. `None` while no price is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<Currency>,
}

/// What has changed since the last event. Lists of nodes and models hold the changed ones only; the
/// other lists are complete, and absent when nothing in them has changed.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct FleetDelta {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<NodeResource>,
    /// Names of nodes that no longer exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed_nodes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    models: Vec<ModelResource>,
    /// Names of models that no longer exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed_models: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    controllers: Option<Vec<ControllerResource>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<Vec<String>>,
}

impl FleetDelta {
    fn is_empty(&self) -> bool {
        self.nodes.is_empty()
            && self.removed_nodes.is_empty()
            && self.models.is_empty()
            && self.removed_models.is_empty()
            && self.notes.is_none()
            && self.controllers.is_none()
            && self.tasks.is_none()
    }
}

/// Hashes of the resources that one reader has received. Keeping the resources themselves for every
/// reader would take much memory.
#[derive(Default)]
struct SentHashes {
    nodes: HashMap<String, u64>,
    models: HashMap<String, u64>,
    notes: u64,
    controllers: u64,
    tasks: u64,
}

impl SentHashes {
    /// Compares a view with what was sent, and remembers it as sent.
    fn delta(&mut self, feed: &LiveFeed, view: &FleetView) -> FleetDelta {
        let (nodes, removed_nodes) =
            changed_items(&mut self.nodes, nodes(view), |node| &node.metadata.name);
        let (models, removed_models) = changed_items(&mut self.models, models(view), |model| {
            model.model.name().as_str()
        });
        FleetDelta {
            nodes,
            removed_nodes,
            models,
            removed_models,
            notes: if_changed(&mut self.notes, view.notes()),
            controllers: if_changed(
                &mut self.controllers,
                controllers(view, &feed.controller.id),
            ),
            tasks: if_changed(&mut self.tasks, tasks(view)),
        }
    }
}

/// Splits `items` into those that are new or differ from what was `sent`, and the names of those
/// that were sent and no longer exist.
fn changed_items<T: Serialize>(
    sent: &mut HashMap<String, u64>,
    items: Vec<T>,
    name: fn(&T) -> &str,
) -> (Vec<T>, Vec<String>) {
    let mut current = HashMap::with_capacity(items.len());
    let mut changed = Vec::new();
    for item in items {
        let hash = hash(&item);
        let key = name(&item).to_owned();
        if sent.remove(&key) != Some(hash) {
            changed.push(item);
        }
        current.insert(key, hash);
    }
    let removed = sent.drain().map(|(name, _)| name);
    let removed = removed.filter(|name| !current.contains_key(name)).collect();
    *sent = current;
    (changed, removed)
}

/// Returns `value` if it differs from what was `sent`.
fn if_changed<T: Serialize>(sent: &mut u64, value: T) -> Option<T> {
    let hash = hash(&value);
    (std::mem::replace(sent, hash) != hash).then_some(value)
}

fn hash(value: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Resources consist of strings and numbers: serializing them cannot fail.
    serde_json::to_vec(value)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}

fn tasks(view: &FleetView) -> Vec<String> {
    view.routing.tasks.keys().map(ToString::to_string).collect()
}

fn event(name: &'static str, data: &impl Serialize) -> Result<Event, Infallible> {
    // Cannot fail, as in `hash`.
    let data = serde_json::to_string(data).unwrap_or_default();
    Ok(Event::default().event(name).data(data))
}

/// `GET /api/v1/live`.
async fn stream(
    State(feed): State<LiveFeed>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let stop = feed.stop.clone();
    let events = async_stream::stream! {
        let mut ticks = feed.traffic.subscribe();
        let mut sent = SentHashes::default();
        let view = feed.fleet.view();
        // Nothing has been sent yet, so that the delta contains everything.
        let all = sent.delta(&feed, &view);
        yield event("snapshot", &FleetSnapshot {
            controller: &feed.controller,
            controllers: all.controllers.unwrap_or_default(),
            grid: GridJson { currency: view.routing.grid.currency() },
            notes: all.notes.unwrap_or_default(),
            nodes: all.nodes,
            models: all.models,
            tasks: all.tasks.unwrap_or_default(),
        });
        let is_large = view.nodes.len() > LARGE_FLEET;
        drop(view);
        yield event("traffic", &feed.traffic.history());
        let mut usage = feed.traffic.usage();
        yield event("usage", &usage);
        yield event("decisions", &feed.traffic.recent());
        let delta_interval = if is_large { LARGE_FLEET_DELTA_INTERVAL } else { DELTA_INTERVAL };
        let mut delta_timer = tokio::time::interval(delta_interval);
        delta_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut usage_timer = tokio::time::interval(USAGE_INTERVAL);
        usage_timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                tick = ticks.recv() => match tick {
                    Ok(TrafficTick { point, summaries }) => {
                        yield event("traffic", &[&*point]);
                        if !summaries.is_empty() {
                            yield event("decisions", &*summaries);
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                _ = delta_timer.tick() => {
                    let delta = sent.delta(&feed, &feed.fleet.view());
                    if !delta.is_empty() {
                        yield event("delta", &delta);
                    }
                }
                _ = usage_timer.tick() => {
                    let current = feed.traffic.usage();
                    if current != usage {
                        usage = current;
                        yield event("usage", &usage);
                    }
                }
            }
        }
    };
    // An open page must not keep the controller from stopping.
    let events = futures::StreamExt::take_until(events, stop.cancelled_owned());
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}
