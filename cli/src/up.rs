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

/// Maximum time to wait for the nodes, and then for the models, before the summary is printed.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Maximum time to finish active requests after Ctrl-C.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Marker in the store after the first start: a model that the user deleted must not come back with
/// the next start.
const APPLIED_MARKER: &str = "demo-models-placed";

/// Runs a fleet until Ctrl-C.
pub(crate) async fn run(args: UpArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let models = models_path(args.models)?;
    let manifests = manifest::read(&models)?;
    let data_dir = std::path::absolute(&args.data_dir)?;

    let telemetry = TelemetrySettings::from_env()?;
    let mut controller = Controller::start(ControllerConfig {
        http: args.http,
        link: SocketAddr::from(([127, 0, 0, 1], 0)),
        store: StoreAddress::Embedded(data_dir.join("controller")),
        data_dir: data_dir.join("controller"),
        stop_grace: DRAIN_TIMEOUT,
        telemetry: telemetry.clone(),
        ..ControllerConfig::default()
    })
    .await?;
    let agents = match start_agents(&controller, &data_dir, args.nodes, &telemetry).await {
        Ok(agents) => agents,
        Err(error) => {
            controller.stop().await;
            return Err(error);
        }
    };

    let (fleet, desired_state, http) = (
        controller.fleet().clone(),
        controller.desired_state().clone(),
        controller.http(),
    );
    let startup = async {
        let progress = Progress::new(&fleet, args.nodes);
        // Models applied before all nodes have joined would all be placed on the first one.
        progress.wait_until(all_nodes_ready).await;
        apply_models(&desired_state, &manifests).await?;
        progress.wait_until(all_models_settled).await;
        progress.bar.finish_and_clear();
        print_summary(&fleet, http, &args.data_dir, start.elapsed());
        std::future::pending().await
    };
    // From here on Ctrl-C stops the fleet, also while models still load.
    let result = tokio::select! {
        error = startup => error,
        signal = shutdown::wait_for_signal() => signal,
        () = controller.failed() => Err(anyhow::anyhow!(
            "a task of the controller ended unexpectedly; start again with --log info for the reason"
        )),
    };
    eprintln!("\nStopping …");
    futures::future::join_all(agents.into_iter().map(Agent::stop)).await;
    controller.stop().await;
    result
}

/// Starts the agents. If one fails, stops those already started and returns its error.
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
            memory: memory_per_agent(nodes),
            power: None,
            energy_accounting: Some(energy_accounting.clone()),
            // The controller exports their metrics.
            metrics: None,
            telemetry: telemetry.clone(),
            fetch_rate: None,
            simulated_slowdown: 1.0,
            drain: DRAIN_TIMEOUT,
            return_memory: allocator::release_free_memory,
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

/// Returns the path of the models to apply: the configured one, `models` in the current directory,
/// or `models` in the source tree that this binary was built from.
fn models_path(configured: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = configured {
        return Ok(path);
    }
    let current_dir = PathBuf::from("models");
    let source_tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    for dir in [current_dir, source_tree] {
        if dir.join("support-intent.yaml").is_file() {
            return Ok(dir.canonicalize().unwrap_or(dir));
        }
    }
    bail!(
        "cannot find the demo models: run the command in Flotilla's source tree, or set --models DIR"
    )
}

/// Applies all resources at the first start. Later starts apply only the models that still exist,
/// since the path of their files can have changed.
async fn apply_models(
    desired_state: &DesiredStateWriter,
    manifests: &[Resource],
) -> anyhow::Result<()> {
    let is_first_start = !desired_state.has_marker(APPLIED_MARKER).await?;
    for resource in manifests {
        match resource {
            _ if is_first_start => drop(desired_state.apply(resource).await?),
            Resource::Model(model) => desired_state.apply_if_exists(model).await?,
            Resource::Task(_) | Resource::Router(_) => {}
        }
    }
    desired_state
        .set_marker(APPLIED_MARKER)
        .await
        .context("cannot write to the store")
}

/// Returns an equal share of the memory that a single agent would use for models.
fn memory_per_agent(nodes: u32) -> Option<Bytes> {
    let total = flotilla_agent::default_memory();
    (total.0 > 0).then(|| Bytes(total.0 / u64::from(nodes)))
}

/// Returns the numbers of ready and of desired replicas.
fn count_replicas(view: &FleetView) -> (u64, u64) {
    let ready = view
        .models
        .values()
        .map(|model| model.endpoints.replicas().len() as u64)
        .sum();
    let desired = view
        .models
        .values()
        .map(|model| {
            u64::from(model.endpoints.model.spec.replicas.min).min(view.nodes.len() as u64)
        })
        .sum();
    (ready, desired)
}

/// A line on the terminal with the progress of the start.
struct Progress<'a> {
    fleet: &'a FleetHandle,
    nodes: u32,
    bar: ProgressBar,
}

impl<'a> Progress<'a> {
    fn new(fleet: &'a FleetHandle, nodes: u32) -> Self {
        let bar = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::no_length();
            // The constant template is valid.
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

    /// Waits until `is_settled` accepts the fleet and the number of nodes, at most for
    /// [`START_TIMEOUT`].
    async fn wait_until(&self, is_settled: fn(&FleetView, u32) -> bool) {
        let mut changes = self.fleet.changes();
        let wait = async {
            loop {
                changes.borrow_and_update();
                let view = self.fleet.view();
                let (ready, desired) = count_replicas(&view);
                self.bar.set_message(format!(
                    "nodes {}/{}, replicas ready {ready}/{desired}",
                    count_ready_nodes(&view),
                    self.nodes
                ));
                if is_settled(&view, self.nodes) || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _: Result<(), _> = tokio::time::timeout(START_TIMEOUT, wait).await;
    }
}

fn count_ready_nodes(view: &FleetView) -> u32 {
    let ready = view
        .nodes
        .values()
        .filter(|node| node.phase == NodePhase::Ready);
    ready.count() as u32
}

fn all_nodes_ready(view: &FleetView, nodes: u32) -> bool {
    view.synced && count_ready_nodes(view) >= nodes
}

/// Returns whether every model has its desired replicas or a failure.
fn all_models_settled(view: &FleetView, nodes: u32) -> bool {
    view.models.values().all(|model| {
        let desired = model.endpoints.model.spec.replicas.min.min(nodes) as usize;
        model.endpoints.replicas().len() >= desired || !model.failures.is_empty()
    })
}

/// Prints the nodes and models of the fleet and how to use it.
fn print_summary(fleet: &FleetHandle, http: SocketAddr, data_dir: &Path, start_time: Duration) {
    let view = fleet.view();
    let (ready, desired) = count_replicas(&view);
    let nodes: Vec<_> = view
        .nodes
        .values()
        .map(|node| NodeResource::new(node))
        .collect();
    let models = view.models.values().map(|model| {
        let nodes: Vec<_> = model
            .endpoints
            .replicas()
            .iter()
            .map(|r| r.node.as_str())
            .collect();
        let problem = model.failures.values().next().map(|f| f.problem.clone());
        vec![
            model.endpoints.model.name().to_string(),
            if nodes.is_empty() {
                "-".to_owned()
            } else {
                nodes.join(", ")
            },
            problem.unwrap_or_else(|| model.endpoints.model.spec.description.clone()),
        ]
    });
    let url = format!("http://{}", client_address(http));
    println!(
        "Flotilla is up after {:.1} s: {} nodes, {} models, {ready} of {desired} replicas ready.\n",
        start_time.as_secs_f64(),
        nodes.len(),
        view.models.len(),
    );
    println!("{}", get::nodes(&nodes));
    println!(
        "{}",
        output::table(&["MODEL", "NODES", "DESCRIPTION OR PROBLEM"], models)
    );
    println!("API   {url}/v1");
    println!("Page  {url}/ (in a terminal: flotilla top)");
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

/// Returns the address for clients on this machine: the loopback address if the API listens on all
/// addresses.
fn client_address(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}
