//! `flotilla route` and `flotilla explain`: routing decisions, before and after the request.

use flotilla_controller::admin::DryRunResult;
use flotilla_dispatch::DecisionRecord;
use serde_json::json;

use crate::args::{ExplainArgs, RouteArgs};
use crate::client::{FleetClient, read_json};
use crate::decision_text::decision_text;
use crate::output;

/// Prints where a request would be sent, without sending it.
pub(crate) async fn route(args: RouteArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let body = json!({
        "model": args.model,
        "messages": [{"role": "user", "content": args.text}],
        "flotilla": {"zone": args.zone},
    });
    let dry_run: DryRunResult = read_json(fleet.post(&["v1", "route"], &body).await?).await?;
    if output::print_serialized(args.output, &dry_run)? {
        return Ok(());
    }
    print!("{}", decision_text(&dry_run.record));
    if let Some(error) = dry_run.error {
        println!("\nThe request would be refused: {error}");
    }
    Ok(())
}

/// Prints the routing decision of a past request.
pub(crate) async fn explain(args: ExplainArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let record: DecisionRecord = fleet.get(&["v1", "decisions", &args.id]).await?;
    if !output::print_serialized(args.output, &record)? {
        print!("{}", decision_text(&record));
    }
    Ok(())
}
