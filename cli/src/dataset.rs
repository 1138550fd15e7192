//! `flotilla dataset`: what tasks have kept of prompts and answers.

use std::io::Write;

use anyhow::{Context, bail};
use flotilla_controller::admin::{DatasetDeletion, DatasetSummary};
use flotilla_core::dataset::DatasetRecord;

use crate::args::{DatasetCommand, DatasetDeleteArgs, DatasetExportArgs, DatasetListArgs};
use crate::client::{FleetClient, ListResponse, print_notes};
use crate::output;

/// Runs a command about datasets.
pub(crate) async fn run(command: DatasetCommand) -> anyhow::Result<()> {
    match command {
        DatasetCommand::List(args) => list(args).await,
        DatasetCommand::Export(args) => export(args).await,
        DatasetCommand::Delete(args) => delete(args).await,
    }
}

async fn list(args: DatasetListArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let list: ListResponse<DatasetSummary> = fleet.get(&["api", "v1", "datasets"]).await?;
    print_notes(&list.notes);
    if output::print_serialized(args.output, &list.items)? {
        return Ok(());
    }
    if list.items.is_empty() {
        println!("No task has kept anything: set spec.learn of a task.");
        return Ok(());
    }
    let rows = list.items.into_iter().map(|summary| {
        let learns: Vec<_> = summary.learns_from.iter().map(|s| s.as_str()).collect();
        vec![
            summary.task.to_string(),
            if learns.is_empty() {
                "-".into()
            } else {
                learns.join(",")
            },
            summary.escalations.to_string(),
            summary.feedback.to_string(),
        ]
    });
    let header = ["TASK", "LEARNS FROM", "ESCALATIONS", "FEEDBACK"];
    print!("{}", output::table(&header, rows));
    Ok(())
}

async fn export(args: DatasetExportArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let path = ["api", "v1", "datasets", args.task.as_str()];
    let ListResponse { items, notes } = fleet.get::<ListResponse<DatasetRecord>>(&path).await?;
    print_notes(&notes);
    if items.is_empty() && !notes.is_empty() {
        bail!("no record of the task '{}' could be read", args.task);
    }
    let total = items.len();
    let written: Vec<_> = items
        .into_iter()
        .filter(|record| args.all || record.answer.is_some())
        .collect();
    let left_out = total - written.len();
    let lines = json_lines(&written)?;
    match &args.output {
        Some(file) => {
            let done = flotilla_durable::replace_with_umask(file, &lines);
            done.with_context(|| format!("cannot write {}", file.display()))?;
            eprintln!("{} records written to {}", written.len(), file.display());
        }
        None => std::io::stdout().lock().write_all(&lines)?,
    }
    if left_out > 0 {
        eprintln!(
            "note: {left_out} prompts without an answer are left out; --all writes them, too"
        );
    }
    Ok(())
}

/// The records as JSON Lines.
fn json_lines(records: &[DatasetRecord]) -> anyhow::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

async fn delete(args: DatasetDeleteArgs) -> anyhow::Result<()> {
    let DatasetDeleteArgs {
        task,
        yes,
        endpoint,
    } = args;
    if !yes {
        bail!(
            "all prompts and answers that the task '{task}' has kept would be deleted, which cannot be undone: confirm with --yes"
        );
    }
    let fleet = FleetClient::new(&endpoint)?;
    let path = ["api", "v1", "datasets", task.as_str()];
    let DatasetDeletion { deleted, notes } = fleet.delete_with_reply(&path).await?;
    println!("dataset of task/{task} deleted: {deleted} records");
    print_notes(&notes);
    if !notes.is_empty() {
        bail!("not all controllers have deleted what they have: delete again once they answer");
    }
    Ok(())
}
