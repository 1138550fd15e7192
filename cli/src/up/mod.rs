//! `flotilla up`: a controller and agents in one process, with the demo models.

mod progress;
mod summary;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use flotilla_agent::energy_accounting::EnergyAccounting;
use flotilla_agent::{
    Agent, AgentConfig, DEFAULT_FILE_RETENTION, NodeConfig, RunnerCommand, UpstreamSecret,
};
use flotilla_controller::admin::{DesiredStateWriter, NewJoinToken, authority_fingerprint};
use flotilla_controller::{Controller, ControllerConfig, StoreAddress};
use flotilla_core::spec::Resource;
use flotilla_core::{Bytes, NodeName, StoreRevision};
use flotilla_identity::enrolment::JoinToken;
use flotilla_telemetry::TelemetrySettings;

use crate::args::UpArgs;
use crate::default_data_dir::default_data_dir;
use crate::{manifest, shutdown};
use progress::{Progress, all_models_settled, all_nodes_ready};
use summary::client_address;

/// Maximum time to finish active requests after Ctrl-C.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Marker that the first start leaves in the store. A model that the user deleted must not come back
/// at the next start.
const APPLIED_MARKER: &str = "demo-models-applied";

/// Runs a fleet until Ctrl-C. `log` is the filter of its log and of its runners'.
pub(crate) async fn run(args: UpArgs, log: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    let models = read_resources(&[models_path(args.models)?])?;
    let further = read_resources(&args.apply)?;
    let data_dir = match args.data_dir {
        Some(dir) => std::path::absolute(dir)?,
        None => default_data_dir(Path::new("up"))?,
    };

    let telemetry = TelemetrySettings::from_env()?;
    let config = ControllerConfig {
        http: args.http,
        link: args.link.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0))),
        advertise_link: args.advertise_link,
        store: StoreAddress::Embedded(data_dir.join("controller")),
        init_store: args.init_store,
        tls: args.tls.settings(),
        data_dir: data_dir.join("controller"),
        model_roots: every_folder(),
        source_hosts: args.source_hosts.hosts(),
        http_api: args.http_api.config(),
        stop_grace: DRAIN_TIMEOUT,
        telemetry: telemetry.clone(),
        ..ControllerConfig::default()
    };
    let mut controller = Controller::start(args.time_limits.apply(config)).await?;
    let secrets = args.upstream_secrets.upstream_secrets;
    let mut agents = match start_agents(
        &controller,
        &data_dir,
        args.nodes,
        &telemetry,
        log,
        &secrets,
    )
    .await
    {
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
        // Models applied before all nodes have joined would all be placed on the first node.
        progress.wait_until(all_nodes_ready).await;
        let mut revision = apply_models(&desired_state, &models).await?;
        for resource in &further {
            revision = revision.max(desired_state.apply(resource).await?.revision);
        }
        progress.wait_for_revision(revision).await;
        progress.wait_until(all_models_settled).await;
        progress.finish();
        summary::print(&fleet, http, args.link, &data_dir, start.elapsed());
        std::future::pending().await
    };
    // From here on Ctrl-C stops the fleet, also while models still load.
    let result = tokio::select! {
        error = startup => error,
        signal = shutdown::wait_for_signal() => signal,
        () = controller.failed() => Err(anyhow::anyhow!(
            "a task of the controller ended unexpectedly; start again with --log info for the reason"
        )),
        () = any_failed(&mut agents) => Err(anyhow::anyhow!(
            "a task of an agent ended unexpectedly; start again with --log info for the reason"
        )),
    };
    eprintln!("\nStopping …");
    futures::future::join_all(agents.into_iter().map(Agent::stop)).await;
    controller.stop().await;
    result
}

/// Waits until a task of an agent has failed.
async fn any_failed(agents: &mut [Agent]) {
    let failed = agents.iter_mut().map(|agent| Box::pin(agent.failed()));
    futures::future::select_all(failed).await;
}

/// The folders that the paths of models may lead into: `up` runs for the user whose files these are.
fn every_folder() -> Vec<PathBuf> {
    vec!["/".into()]
}

/// Starts the agents. If one fails, stops those already started and returns its error.
async fn start_agents(
    controller: &Controller,
    data_dir: &Path,
    nodes: u32,
    telemetry: &TelemetrySettings,
    log: &str,
    secrets: &[UpstreamSecret],
) -> anyhow::Result<Vec<Agent>> {
    let mut agents = Vec::new();
    let token = join_token(controller, nodes).await?;
    let runner = RunnerCommand::of_this_program()?.with_log_filter(log);
    let energy_accounting = EnergyAccounting::start_on_this_machine(None, nodes);
    for number in 1..=nodes {
        let name = format!("node-{number}");
        let node_name = NodeName::new(&name)?;
        // Its log lines begin with the node.
        let span = tracing::error_span!("node", name);
        let agent = span.in_scope(|| {
            Agent::start(AgentConfig {
                node: NodeConfig {
                    memory: memory_per_agent(nodes),
                    ..NodeConfig::new(node_name)
                },
                join: vec![client_address(controller.link()).to_string()],
                data_dir: data_dir.join(&name),
                adopt_fleet: None,
                token: token.clone(),
                insecure: true,
                energy_accounting: Some(energy_accounting.clone()),
                // The controller exports their metrics.
                metrics: None,
                telemetry: telemetry.clone(),
                fetch_rate: None,
                disk: None,
                disk_agents: nodes,
                file_retention: DEFAULT_FILE_RETENTION,
                model_roots: every_folder(),
                upstream_secrets: secrets.to_vec(),
                simulated_slowdown: 1.0,
                drain_timeout: DRAIN_TIMEOUT,
                runner: runner.clone(),
            })
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

/// Creates the token that the agents enrol with. `None`: the fleet has no authority. An agent that has enrolled does so
/// again with the same key.
async fn join_token(controller: &Controller, nodes: u32) -> anyhow::Result<Option<JoinToken>> {
    let view = controller.fleet().view();
    let Some(authority) = authority_fingerprint(&view) else {
        return Ok(None);
    };
    let new = NewJoinToken {
        uses: nodes,
        ..NewJoinToken::default()
    };
    let created = controller
        .desired_state()
        .create_join_token(&view, authority, &new);
    let (token, _, _) = created.await.context("cannot create a join token")?;
    Ok(Some(token))
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

/// Reads the resources of all these files and folders.
fn read_resources(paths: &[PathBuf]) -> anyhow::Result<Vec<Resource>> {
    let mut resources = Vec::new();
    for path in paths {
        let documents = manifest::read(path)?;
        resources.extend(documents.into_iter().map(|read| read.resource));
    }
    Ok(resources)
}

/// Applies all resources at the first start. Later starts apply only the models that still exist,
/// since the path of their files can have changed. Returns the store revision that holds what was applied.
async fn apply_models(
    desired_state: &DesiredStateWriter,
    resources: &[Resource],
) -> anyhow::Result<StoreRevision> {
    let is_first_start = !desired_state.has_marker(APPLIED_MARKER).await?;
    let mut revision = StoreRevision::default();
    for resource in resources {
        let applied = match resource {
            _ if is_first_start => Some(desired_state.apply(resource).await?),
            Resource::Model(model) => desired_state.apply_if_exists(model).await?,
            Resource::Task(_) | Resource::Router(_) => None,
        };
        revision = revision.max(applied.map(|applied| applied.revision).unwrap_or_default());
    }
    desired_state
        .set_marker(APPLIED_MARKER)
        .await
        .context("cannot write to the store")?;
    Ok(revision)
}

/// Returns an equal share of the memory that a single agent would use for models.
fn memory_per_agent(nodes: u32) -> Option<Bytes> {
    let total = flotilla_agent::default_memory();
    (total.0 > 0).then(|| Bytes(total.0 / u64::from(nodes)))
}
