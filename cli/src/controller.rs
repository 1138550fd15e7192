//! `flotilla controller`: runs a controller until a signal stops it.

use flotilla_controller::{Controller, ControllerConfig};
use flotilla_telemetry::TelemetrySettings;

use crate::args::ControllerArgs;
use crate::shutdown;

/// Runs a controller until SIGINT or SIGTERM, or until one of its tasks fails.
pub(crate) async fn run(args: ControllerArgs) -> anyhow::Result<()> {
    let data_dir = args.data_dir()?;
    let config = ControllerConfig {
        http: args.http,
        link: args.link,
        store: args.store(&data_dir)?,
        init_store: args.init_store,
        tls: args.tls.settings(),
        data_dir,
        model_roots: args.model_roots.model_roots,
        source_hosts: args.source_hosts.hosts(),
        ca_file: args.ca_file,
        advertise_link: args.advertise_link,
        advertise_http: args.advertise_http,
        max_body: usize::try_from(args.max_body.0)?,
        http_api: args.http_api.config(),
        connections: args.connections_per_agent,
        decisions: args.max_decisions as usize,
        record_prompts: args.record_prompts,
        stop_grace: args.drain_timeout,
        telemetry: TelemetrySettings::from_env()?,
        ..ControllerConfig::default()
    };
    let config = args.time_limits.apply(config);
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        store = %config.store,
        data_dir = %config.data_dir.display(),
        "starting a controller"
    );
    let mut controller = Controller::start(config).await?;
    tracing::info!(http = %controller.http(), link = %controller.link(), "ready");
    tokio::select! {
        signal = shutdown::wait_for_signal() => signal?,
        () = controller.failed() => anyhow::bail!("a task of the controller ended unexpectedly; see the log for the reason"),
    }
    tracing::info!("stopping");
    controller.stop().await;
    Ok(())
}
