//! A whole fleet under load while random parts of it fail, for as long as one likes.

mod faults;
mod fleet;
mod full_disk;
mod host_clock;

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Api, Load, LoadTally};
use faults::Fault;
use fleet::SoakFleet;

const CONTROLLERS: usize = 3;
const AGENTS: usize = 4;
const ETCD_MEMBERS: usize = 3;
/// Memory of each node, in bytes.
const NODE_MEMORY: u64 = 1 << 30;
/// How many more files a process may have open at the end than after its start: connections of clients
/// and peers come and go.
const MAX_FILE_GROWTH: i64 = 60;
/// How much a process may grow after its start, in bytes: allocators keep some memory.
const MAX_MEMORY_GROWTH: i64 = 128 << 20;
/// The models under load. [`SoakFleet::apply_models`] says how they differ.
const MODELS: [&str; 3] = ["steady", "scaled", "sleepy"];

/// The result of a soak.
#[derive(Debug)]
pub struct SoakReport {
    /// How often each fault was injected.
    pub faults: Vec<(&'static str, u32)>,
    /// The outcomes of all requests.
    pub tally: LoadTally,
    /// The most that any process has grown.
    pub growth: ResourceGrowth,
}

/// How much a process has grown since it had settled after its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct ResourceGrowth {
    /// Resident memory, in bytes.
    pub memory: i64,
    /// Open files.
    pub files: i64,
}

/// Injects faults into a fleet under load for `duration`. The same `seed` gives the same order of
/// faults.
///
/// # Panics
/// Panics if the fleet does not reach its desired state after a fault, if a request fails before
/// anything was streamed, or if a process grows too much.
pub async fn run(duration: Duration, seed: u64) -> SoakReport {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut fleet = SoakFleet::start();
    let faults = Fault::possible(&fleet);
    fleet.apply_models().await;
    fleet.wait_until_settled("the start").await;
    let apis = fleet.apis();
    let loads = MODELS.map(|model| Load::start(&apis, model, 3));
    fleet.save_store();
    let mut counts: Vec<_> = faults.iter().map(|fault| (fault.name(), 0)).collect();
    // All of them in turn, each time in another order.
    let mut upcoming: Vec<usize> = Vec::new();
    let began = Instant::now();
    while began.elapsed() < duration {
        if upcoming.is_empty() {
            upcoming.extend(0..faults.len());
            random.shuffle(&mut upcoming);
        }
        let Some(index) = upcoming.pop() else { break };
        let fault = faults[index];
        println!("{:>5.0} s: {}", began.elapsed().as_secs_f64(), fault.name());
        faults::inject(fault, &mut fleet, &mut random).await;
        fleet.wait_until_settled(fault.name()).await;
        for (load, model) in loads.iter().zip(MODELS) {
            if let Some(error) = load.first_error() {
                fleet.print_logs();
                panic!(
                    "a request for {model} failed during {}: {error}",
                    fault.name()
                );
            }
        }
        counts[index].1 += 1;
    }
    let mut tally = LoadTally::default();
    for (load, model) in loads.into_iter().zip(MODELS) {
        tally.add(load.stop(model).await);
    }
    fleet.wait_until_settled("the end").await;
    let growth = fleet.growth();
    assert!(tally.errors.is_empty(), "{tally}");
    assert!(
        growth.memory <= MAX_MEMORY_GROWTH && growth.files <= MAX_FILE_GROWTH,
        "a process has grown too much: {growth:?}"
    );
    SoakReport {
        faults: counts,
        tally,
        growth,
    }
}

/// Whether all nodes are ready and run exactly what is assigned to them, and every model is served as
/// its spec says.
async fn is_settled(api: &Api) -> bool {
    let nodes = api.nodes().await;
    let models = api.models().await;
    let is_ready = |node: &&Value| node["status"]["phase"] == "Ready";
    nodes.iter().filter(is_ready).count() == AGENTS
        && nodes.iter().all(runs_what_is_assigned)
        && models.len() == MODELS.len()
        && models.iter().all(is_served)
}

fn is_served(model: &Value) -> bool {
    let status = &model["status"];
    let min_replicas = match &model["spec"]["replicas"] {
        Value::Number(replicas) => replicas.as_u64().unwrap_or(0),
        range => range["min"].as_u64().unwrap_or(0),
    };
    let ready = status["ready"].as_u64().unwrap_or(0);
    let is_stable = status["phase"] == "Ready" || status["phase"] == "Asleep";
    is_stable && ready >= min_replicas && status["assigned"] == status["ready"]
}

fn runs_what_is_assigned(node: &Value) -> bool {
    let names = |list: &Value, field: Option<&str>| -> Vec<String> {
        let items = list.as_array().cloned().unwrap_or_default();
        let name = |item: &Value| field.map_or(item, |field| &item[field]).to_string();
        items.iter().map(name).collect()
    };
    let status = &node["status"];
    names(&status["assigned"], None) == names(&status["models"], Some("name"))
}
