//! The page's feed: the whole fleet once, then what changes, second by second, as server-sent events.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::get;
use flotilla_core::energy::Currency;
use futures::Stream;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{
    ControllerResource, ModelResource, NodeResource, controllers, models_as_listed, notes,
};
use crate::decisions::unix_millis;
use crate::fleet::{FleetHandle, FleetView};
use crate::traffic::{TrafficLog, TrafficTick};

/// How often is looked for what has changed, and how often where many nodes have: each look costs
/// as much as there are nodes.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_AT_MANY: Duration = Duration::from_secs(2);
/// Nodes that are many.
const MANY: usize = 200;
/// How often totals are told.
const USAGE: Duration = Duration::from_secs(2);
/// How often something is said where nothing happens.
const ALIVE: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct LiveFeed {
    fleet: FleetHandle,
    traffic: TrafficLog,
    controller: Arc<ControllerInfo>,
    stop: CancellationToken,
}

/// The controller that tells.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ControllerInfo {
    id: String,
    version: &'static str,
    /// In milliseconds since 1970.
    started_at: u64,
}

/// The feed of the controller `id`, which ends with `stop`.
pub(crate) fn router(
    fleet: FleetHandle,
    traffic: TrafficLog,
    id: String,
    stop: CancellationToken,
) -> Router {
    let live = LiveFeed {
        fleet,
        traffic,
        controller: Arc::new(ControllerInfo {
            id,
            version: env!("CARGO_PKG_VERSION"),
            started_at: unix_millis(),
        }),
        stop,
    };
    Router::new()
        .route("/api/v1/live", get(follow))
        .with_state(live)
}

/// The whole fleet.
#[derive(Serialize)]
struct FleetSnapshot<'a> {
    controller: &'a ControllerInfo,
    controllers: Vec<ControllerResource>,
    grid: GridJson,
    notes: Vec<String>,
    nodes: Vec<NodeResource>,
    models: Vec<ModelResource>,
    tasks: Vec<String>,
}

#[derive(Serialize)]
struct GridJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<Currency>,
}

/// What is different from what was told before.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct FleetDelta {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<NodeResource>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone_nodes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    models: Vec<ModelResource>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone_models: Vec<String>,
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
            && self.gone_nodes.is_empty()
            && self.models.is_empty()
            && self.gone_models.is_empty()
            && self.notes.is_none()
            && self.controllers.is_none()
            && self.tasks.is_none()
    }
}

/// What was told, by a hash of each part.
#[derive(Default)]
struct SentHashes {
    nodes: HashMap<String, u64>,
    models: HashMap<String, u64>,
    notes: u64,
    controllers: u64,
    tasks: u64,
}

fn hash(value: &impl Serialize) -> u64 {
    let mut hasher = DefaultHasher::new();
    // Resources are made of texts and numbers: serializing them cannot fail.
    serde_json::to_vec(value)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}

/// Leaves of a list what is new or different, and names what is gone.
fn news<T: Serialize>(
    told: &mut HashMap<String, u64>,
    items: Vec<T>,
    name: fn(&T) -> &str,
) -> (Vec<T>, Vec<String>) {
    let mut now = HashMap::with_capacity(items.len());
    let mut fresh = Vec::new();
    for item in items {
        let hash = hash(&item);
        let key = name(&item).to_owned();
        if told.remove(&key) != Some(hash) {
            fresh.push(item);
        }
        now.insert(key, hash);
    }
    let gone = told.drain().map(|(name, _)| name);
    let gone = gone.filter(|name| !now.contains_key(name)).collect();
    *told = now;
    (fresh, gone)
}

impl SentHashes {
    fn news(&mut self, live: &LiveFeed, view: &FleetView) -> FleetDelta {
        let (nodes, gone_nodes) = news(&mut self.nodes, nodes(view), |n| &n.metadata.name);
        let models = models_as_listed(view);
        let (models, gone_models) = news(&mut self.models, models, |m| m.model.name().as_str());
        FleetDelta {
            nodes,
            gone_nodes,
            models,
            gone_models,
            notes: changed(&mut self.notes, notes(view)),
            controllers: changed(
                &mut self.controllers,
                controllers(view, &live.controller.id),
            ),
            tasks: changed(&mut self.tasks, tasks(view)),
        }
    }
}

fn changed<T: Serialize>(told: &mut u64, now: T) -> Option<T> {
    let hash = hash(&now);
    (std::mem::replace(told, hash) != hash).then_some(now)
}

fn nodes(view: &FleetView) -> Vec<NodeResource> {
    view.nodes
        .values()
        .map(|node| NodeResource::new(node))
        .collect()
}

fn tasks(view: &FleetView) -> Vec<String> {
    view.routing.tasks.keys().map(ToString::to_string).collect()
}

fn event(name: &'static str, data: &impl Serialize) -> Result<Event, Infallible> {
    // As above: it cannot fail.
    let data = serde_json::to_string(data).unwrap_or_default();
    Ok(Event::default().event(name).data(data))
}

async fn follow(
    State(live): State<LiveFeed>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let stop = live.stop.clone();
    let events = async_stream::stream! {
        let mut ticks = live.traffic.follow();
        let mut told = SentHashes::default();
        let view = live.fleet.view();
        // All is news to whoever was told nothing.
        let first = told.news(&live, &view);
        yield event("fleet", &FleetSnapshot {
            controller: &live.controller,
            controllers: first.controllers.unwrap_or_default(),
            grid: GridJson { currency: view.routing.grid.currency() },
            notes: first.notes.unwrap_or_default(),
            nodes: first.nodes,
            models: first.models,
            tasks: first.tasks.unwrap_or_default(),
        });
        let many = view.nodes.len() > MANY;
        drop(view);
        yield event("traffic", &live.traffic.past());
        let mut usage = live.traffic.usage();
        yield event("usage", &usage);
        yield event("decisions", &live.traffic.recent());
        let mut looks = tokio::time::interval(if many { LOOK_AT_MANY } else { LOOK });
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sums = tokio::time::interval(USAGE);
        sums.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                tick = ticks.recv() => match tick {
                    Ok(TrafficTick { point, briefs }) => {
                        yield event("traffic", &[&*point]);
                        if !briefs.is_empty() {
                            yield event("decisions", &*briefs);
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                _ = looks.tick() => {
                    let change = told.news(&live, &live.fleet.view());
                    if !change.is_empty() {
                        yield event("change", &change);
                    }
                }
                _ = sums.tick() => {
                    let now = live.traffic.usage();
                    if now != usage {
                        usage = now;
                        yield event("usage", &usage);
                    }
                }
            }
        }
    };
    // A page that is open must not keep a controller from ending.
    let events = futures::StreamExt::take_until(events, stop.cancelled_owned());
    Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE))
}
