//! `flotilla agent`: runs an agent until a signal stops it.

use flotilla_agent::{Agent, AgentConfig, NodeConfig, RunnerCommand};
use flotilla_telemetry::TelemetrySettings;

use crate::args::AgentArgs;
use crate::shutdown;

/// Runs an agent until SIGINT or SIGTERM, or until one of its tasks fails. `log` is the filter of its log and of its runners'.
pub(crate) async fn run(args: AgentArgs, log: &str) -> anyhow::Result<()> {
    let power = args.power_range();
    if let Some(range) = power
        && range.idle.0 > range.max.0
    {
        anyhow::bail!("--idle-watts must not be above --max-watts");
    }
    let data_dir = args.data_dir()?;
    let token = args.token()?;
    let node = NodeConfig {
        name: args.name.clone(),
        labels: args.labels.into_iter().collect(),
        taints: args.taints,
        zones: args.zones.into_iter().collect(),
        memory: args.memory,
        power,
    };
    let config = AgentConfig {
        data_dir,
        adopt_fleet: args.adopt_fleet,
        token,
        insecure: args.insecure,
        node,
        join: args.join,
        energy_accounting: None,
        metrics: args.metrics.0,
        telemetry: TelemetrySettings::from_env()?,
        fetch_rate: args.fetch_rate,
        disk: args.disk,
        disk_agents: 1,
        file_retention: args.file_retention.0,
        model_roots: args.model_roots.model_roots,
        upstream_secrets: args.upstream_secrets.upstream_secrets,
        simulated_slowdown: args.simulated_slowdown,
        drain_timeout: args.drain_timeout,
        runner: RunnerCommand::of_this_program()?.with_log_filter(log),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %config.node.name,
        join = config.join.join(","),
        data_dir = %config.data_dir.display(),
        "starting an agent"
    );
    let mut agent = Agent::start(config)?;
    tokio::select! {
        signal = shutdown::wait_for_signal() => signal?,
        () = agent.failed() => anyhow::bail!("a task of the agent ended unexpectedly; see the log for the reason"),
    }
    tracing::info!("stopping");
    agent.stop().await;
    Ok(())
}
