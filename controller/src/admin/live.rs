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
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use flotilla_core::energy::Currency;
use flotilla_gateway::{ApiRoutes, Operation};
use flotilla_identity::keys::Action;
use flotilla_telemetry::clock::unix_millis;
use futures::Stream;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::controllers::{ControllerResource, controllers};
use super::models::{ModelResource, models};
use super::nodes::{NodeResource, nodes};
use super::off_thread::off_thread;
use crate::fleet::{FleetHandle, FleetView};
use crate::traffic::{TrafficLog, TrafficTick};

/// How often the view is compared with what was sent.
const DELTA_INTERVAL: Duration = Duration::from_millis(500);
/// How long resources are shared although there is a newer view.
const SHARED_FOR: Duration = Duration::from_millis(100);
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
    /// The latest resources, which all readers share.
    latest: Arc<Mutex<Option<Arc<FleetResources>>>>,
    stop: CancellationToken,
}

/// The resources of a view, with their hashes.
struct FleetResources {
    /// The number of the view.
    generation: u64,
    made_at: Instant,
    nodes: Vec<Hashed<NodeResource>>,
    models: Vec<Hashed<ModelResource>>,
    notes: (u64, Vec<String>),
    refusals: (u64, Vec<String>),
    controllers: (u64, Vec<ControllerResource>),
    tasks: (u64, Vec<String>),
}

/// A resource, its name and its hash.
struct Hashed<T> {
    name: String,
    hash: u64,
    resource: T,
}

impl<T: Serialize> Hashed<T> {
    fn new(name: &str, resource: T) -> Self {
        Self {
            name: name.to_owned(),
            hash: hash(&resource),
            resource,
        }
    }
}

impl FleetResources {
    /// Makes the resources of a view, which takes long in a large fleet.
    fn new(view: &FleetView, controller: &str) -> Self {
        let nodes = nodes(view).into_iter();
        let models = models(view).into_iter();
        let hashed = |value| (hash(&value), value);
        let controllers = controllers(view, controller);
        Self {
            generation: view.generation,
            made_at: Instant::now(),
            nodes: nodes
                .map(|node| Hashed::new(&node.metadata.name.clone(), node))
                .collect(),
            models: models
                .map(|model| Hashed::new(model.model.name().clone().as_str(), model))
                .collect(),
            notes: hashed(view.notes()),
            refusals: hashed(view.node_notes()),
            controllers: (hash(&controllers), controllers),
            tasks: hashed(tasks(view)),
        }
    }

    /// Whether these resources still do for a view.
    fn are_current(&self, view: &FleetView) -> bool {
        let age = self.made_at.elapsed();
        // Counters change within a view.
        age < SHARED_FOR || (self.generation == view.generation && age < DELTA_INTERVAL)
    }
}

impl LiveFeed {
    /// The latest resources. One task makes them, for all readers.
    async fn resources(&self) -> Option<Arc<FleetResources>> {
        let mut latest = self.latest.lock().await;
        let view = self.fleet.view();
        if let Some(resources) = latest.as_ref().filter(|latest| latest.are_current(&view)) {
            return Some(resources.clone());
        }
        let controller = self.controller.clone();
        let made = off_thread(move || Arc::new(FleetResources::new(&view, &controller.id))).await;
        *latest = made.ok();
        latest.clone()
    }
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
        latest: Arc::default(),
        stop,
    };
    let operation = Operation::new(
        Action::Read,
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
    /// Nodes that were refused when they joined.
    refusals: Vec<String>,
    nodes: Vec<&'a NodeResource>,
    models: Vec<&'a ModelResource>,
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
struct FleetDelta<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<&'a NodeResource>,
    /// Names of nodes that no longer exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed_nodes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    models: Vec<&'a ModelResource>,
    /// Names of models that no longer exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    removed_models: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusals: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    controllers: Option<Vec<ControllerResource>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<Vec<String>>,
}

impl FleetDelta<'_> {
    fn is_empty(&self) -> bool {
        self.nodes.is_empty()
            && self.removed_nodes.is_empty()
            && self.models.is_empty()
            && self.removed_models.is_empty()
            && self.notes.is_none()
            && self.refusals.is_none()
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
    refusals: u64,
    controllers: u64,
    tasks: u64,
}

impl SentHashes {
    /// Compares resources with what was sent, and remembers them as sent.
    fn delta<'a>(&mut self, resources: &'a FleetResources) -> FleetDelta<'a> {
        let (nodes, removed_nodes) = changed_items(&mut self.nodes, &resources.nodes);
        let (models, removed_models) = changed_items(&mut self.models, &resources.models);
        FleetDelta {
            nodes,
            removed_nodes,
            models,
            removed_models,
            notes: if_changed(&mut self.notes, &resources.notes),
            refusals: if_changed(&mut self.refusals, &resources.refusals),
            controllers: if_changed(&mut self.controllers, &resources.controllers),
            tasks: if_changed(&mut self.tasks, &resources.tasks),
        }
    }
}

/// Splits `items` into those that are new or differ from what was `sent`, and the names of those
/// that were sent and no longer exist.
fn changed_items<'a, T>(
    sent: &mut HashMap<String, u64>,
    items: &'a [Hashed<T>],
) -> (Vec<&'a T>, Vec<String>) {
    let mut current = HashMap::with_capacity(items.len());
    let mut changed = Vec::new();
    for item in items {
        if sent.remove(&item.name) != Some(item.hash) {
            changed.push(&item.resource);
        }
        current.insert(item.name.clone(), item.hash);
    }
    let removed = sent.drain().map(|(name, _)| name);
    let removed = removed.filter(|name| !current.contains_key(name)).collect();
    *sent = current;
    (changed, removed)
}

/// Returns the value if its hash differs from what was `sent`.
fn if_changed<T: Clone>(sent: &mut u64, (hash, value): &(u64, T)) -> Option<T> {
    (std::mem::replace(sent, *hash) != *hash).then(|| value.clone())
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
        let Some(resources) = feed.resources().await else {
            return;
        };
        let (controller, currency) = (feed.controller.clone(), feed.fleet.peek().routing.grid.currency());
        let first = off_thread(move || {
            let mut sent = SentHashes::default();
            // Nothing has been sent yet, so that the delta contains everything.
            let all = sent.delta(&resources);
            let snapshot = event("snapshot", &FleetSnapshot {
                controller: &controller,
                controllers: all.controllers.unwrap_or_default(),
                grid: GridJson { currency },
                notes: all.notes.unwrap_or_default(),
                refusals: all.refusals.unwrap_or_default(),
                nodes: all.nodes,
                models: all.models,
                tasks: all.tasks.unwrap_or_default(),
            });
            (snapshot, sent, resources.nodes.len() > LARGE_FLEET)
        });
        let Ok((snapshot, mut sent, is_large)) = first.await else {
            return;
        };
        yield snapshot;
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
                    let Some(resources) = feed.resources().await else {
                        return;
                    };
                    let delta = sent.delta(&resources);
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
