//! `flotilla up`: a controller and agents in one process, with the demo models.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flotilla_agent::energy_accounting::EnergyAccounting;
use flotilla_agent::{Agent, AgentConfig};
use flotilla_controller::admin::{DesiredStateWriter, NodeResource};
use flotilla_controller::fleet::{FleetHandle, FleetView, NodePhase};
use flotilla_controller::{Controller, ControllerConfig, StoreAddress};
use flotilla_core::spec::Resource;
use flotilla_core::{Bytes, NodeName};
use flotilla_telemetry::TelemetrySettings;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::UpArgs;
use crate::{allocator, get, manifest, output, shutdown};

/// How long to wait for the models before telling what there is.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long requests under way may go on after Ctrl-C.
const DRAIN: Duration = Duration::from_secs(5);
/// Noted in the store once the demo models were placed, so that a model that the user
/// removed does not come back with the next start.
const PLACED: &str = "demo-models-placed";

/// Runs a fleet until Ctrl-C.
pub(crate) async fn run(args: UpArgs) -> anyhow::Result<()> {
    let began = Instant::now();
    let models = models_dir(args.models)?;
    let manifests = manifest::read(&models)?;
    let data_dir = std::path::absolute(&args.data_dir)?;

    let telemetry = TelemetrySettings::from_env()?;
    let mut controller = Controller::start(ControllerConfig {
        http: args.http,
        link: SocketAddr::from(([127, 0, 0, 1], 0)),
        store: StoreAddress::Embedded(data_dir.join("controller")),
        data_dir: data_dir.join("controller"),
        stop_grace: DRAIN,
        telemetry: telemetry.clone(),
        ..ControllerConfig::default()
    })
    .await?;
    let started = start_agents(&controller, &data_dir, args.nodes, &telemetry).await;
    let agents = match started {
        Ok(agents) => agents,
        Err(error) => {
            controller.stop().await;
            return Err(error);
        }
    };

    let (fleet, wish, http) = (
        controller.fleet().clone(),
        controller.wish().clone(),
        controller.http(),
    );
    let welcome = async {
        let progress = Progress::new(&fleet, args.nodes);
        // Models wished for before the nodes are there would all go to the first one.
        progress.until(nodes_are_linked).await;
        place(&wish, &manifests).await?;
        progress.until(models_are_settled).await;
        progress.bar.finish_and_clear();
        introduce(&fleet, http, &args.data_dir, began.elapsed());
        std::future::pending().await
    };
    // Ctrl-C counts from here on, also while models still load.
    let ended = tokio::select! {
        never = welcome => never,
        asked = shutdown::requested() => asked,
        () = controller.failed() => Err(anyhow::anyhow!("a part of the controller has ended; --log info says why")),
    };
    eprintln!("\nStopping …");
    futures::future::join_all(agents.into_iter().map(Agent::stop)).await;
    controller.stop().await;
    ended
}

/// Starts the agents, all or none.
async fn start_agents(
    controller: &Controller,
    data_dir: &Path,
    nodes: u32,
    telemetry: &TelemetrySettings,
) -> anyhow::Result<Vec<Agent>> {
    let mut agents = Vec::new();
    let energy_accounting = EnergyAccounting::start_on_this_machine(None, nodes);
    for number in 1..=nodes {
        let name = format!("node-{number}");
        let agent = Agent::start(AgentConfig {
            name: NodeName::new(&name)?,
            join: vec![controller.link().to_string()],
            data_dir: data_dir.join(&name),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            zone: None,
            memory: share_of_memory(nodes),
            power: None,
            energy_accounting: Some(energy_accounting.clone()),
            // The controller has their metrics.
            metrics: None,
            telemetry: telemetry.clone(),
            fetch_rate: None,
            simulated_slowdown: 1.0,
            drain: DRAIN,
            return_memory: allocator::return_memory,
        });
        match agent {
            Ok(agent) => agents.push(agent),
            Err(error) => {
                futures::future::join_all(agents.into_iter().map(Agent::stop)).await;
                return Err(error.into());
            }
        }
    }
    Ok(agents)
}

/// The folder of the models: the given one, `models` here, or beside the sources this binary
/// was built from.
fn models_dir(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = given {
        return Ok(dir);
    }
    let here = PathBuf::from("models");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    for dir in [here, sources] {
        if dir.join("support-intent.yaml").is_file() {
            return Ok(dir.canonicalize().unwrap_or(dir));
        }
    }
    bail!("the demo models are not here: run it in Flotilla's source tree, or give --models DIR")
}

/// Wishes for the models at the first start; later only for those that are still there, in
/// case their files have moved.
async fn place(wish: &DesiredStateWriter, manifests: &[Resource]) -> anyhow::Result<()> {
    let placed = wish.is_noted(PLACED).await?;
    for resource in manifests {
        match resource {
            Resource::Model(model) if placed => wish.apply_if_there(model).await?,
            _ if placed => {}
            _ => drop(wish.apply(resource).await?),
        }
    }
    wish.note(PLACED).await.context("cannot write to the store")
}

/// An even part of what one agent alone would take.
fn share_of_memory(nodes: u32) -> Option<Bytes> {
    let total = flotilla_agent::default_memory();
    (total.0 > 0).then(|| Bytes(total.0 / u64::from(nodes)))
}

/// Replicas that answer, and replicas there should be.
fn replicas(view: &FleetView) -> (u64, u64) {
    let ready = view
        .models
        .values()
        .map(|model| model.replicas.len() as u64)
        .sum();
    let wanted = view
        .models
        .values()
        .map(|model| u64::from(model.model.spec.replicas.min).min(view.nodes.len() as u64))
        .sum();
    (ready, wanted)
}

/// How far the start is, shown to a person while it goes on.
struct Progress<'a> {
    fleet: &'a FleetHandle,
    nodes: u32,
    bar: ProgressBar,
}

impl<'a> Progress<'a> {
    fn new(fleet: &'a FleetHandle, nodes: u32) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::no_length();
            // The template is a constant that parses.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        } else {
            ProgressBar::hidden()
        };
        Self { fleet, nodes, bar }
    }

    /// Waits until the fleet is as `settled` says, or patience ends.
    async fn until(&self, settled: fn(&FleetView, u32) -> bool) {
        let mut changes = self.fleet.changes();
        let wait = async {
            loop {
                changes.borrow_and_update();
                let view = self.fleet.view();
                let (ready, wanted) = replicas(&view);
                self.bar.set_message(format!(
                    "nodes {}/{}, replicas ready {ready}/{wanted}",
                    linked(&view),
                    self.nodes
                ));
                if settled(&view, self.nodes) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _: Result<(), _> = tokio::time::timeout(PATIENCE, wait).await;
    }
}

fn linked(view: &FleetView) -> u32 {
    let ready = view
        .nodes
        .values()
        .filter(|node| node.phase == NodePhase::Ready);
    ready.count() as u32
}

fn nodes_are_linked(view: &FleetView, nodes: u32) -> bool {
    view.synced && linked(view) >= nodes
}

/// Every model answers everywhere it should, or has failed.
fn models_are_settled(view: &FleetView, nodes: u32) -> bool {
    view.models.values().all(|model| {
        let wanted = model.model.spec.replicas.min.min(nodes) as usize;
        model.replicas.len() >= wanted || !model.failures.is_empty()
    })
}

/// Tells what there is and how to use it.
fn introduce(fleet: &FleetHandle, http: SocketAddr, data_dir: &Path, took: Duration) {
    let view = fleet.view();
    let (ready, wanted) = replicas(&view);
    let nodes: Vec<_> = view
        .nodes
        .values()
        .map(|node| NodeResource::new(node))
        .collect();
    let models = view.models.values().map(|model| {
        let on: Vec<_> = model.replicas.iter().map(|r| r.node.as_str()).collect();
        let problem = model.failures.values().next().map(|f| f.problem.clone());
        vec![
            model.model.name().to_string(),
            if on.is_empty() {
                "-".to_owned()
            } else {
                on.join(", ")
            },
            problem.unwrap_or_else(|| model.model.spec.description.clone()),
        ]
    });
    let url = format!("http://{}", reachable(http));
    println!(
        "Flotilla is up after {:.1} s: {} nodes, {} models, {ready} of {wanted} replicas ready.\n",
        took.as_secs_f64(),
        nodes.len(),
        view.models.len(),
    );
    println!("{}", get::nodes(&nodes));
    println!("{}", output::table(&["MODEL", "NODES", ""], models));
    println!("API   {url}/v1");
    println!("Page  {url}/ (at a terminal: flotilla top)");
    println!("Data  {}\n", data_dir.display());
    let example = "I still have not received my new card";
    println!("Try it:");
    println!(
        "  curl -s {url}/v1/chat/completions -H 'content-type: application/json' -d '{{\"model\": \"support-intent\", \"messages\": [{{\"role\": \"user\", \"content\": \"{example}\"}}]}}'"
    );
    println!(
        "  python3 -c \"from openai import OpenAI; print(OpenAI(base_url='{url}/v1', api_key='none').chat.completions.create(model='support-intent', messages=[{{'role': 'user', 'content': '{example}'}}]).choices[0].message.content)\""
    );
    println!("\nCtrl-C stops everything.");
}

/// The address to paste: where everything is listened on, the loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}
