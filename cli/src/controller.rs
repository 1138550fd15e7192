//! `flotilla controller`.

use flotilla_controller::{Controller, ControllerConfig};

use flotilla_telemetry::TelemetrySettings;

use crate::args::ControllerArgs;
use crate::shutdown;

/// Runs a controller until it is asked to stop.
pub(crate) async fn run(args: ControllerArgs) -> anyhow::Result<()> {
    let config = ControllerConfig {
        http: args.http,
        link: args.link,
        store: args.store()?,
        data_dir: args.data_dir,
        advertise_link: args.advertise_link,
        advertise_http: args.advertise_http,
        max_body: usize::try_from(args.max_body.0)?,
        first_token_timeout: args.first_token_timeout,
        link_timeout: args.link_timeout,
        node_grace: args.node_grace,
        connections: args.connections,
        decisions: args.decisions as usize,
        record_prompts: args.record_prompts,
        telemetry: TelemetrySettings::from_env()?,
        ..ControllerConfig::default()
    };
    tracing::info!(?config, "starting");
    let mut controller = Controller::start(config).await?;
    tracing::info!(http = %controller.http(), link = %controller.link(), "ready");
    tokio::select! {
        asked = shutdown::requested() => asked?,
        () = controller.failed() => anyhow::bail!("a part of the controller has ended; the log says why"),
    }
    tracing::info!("stopping");
    controller.stop().await;
    Ok(())
}
