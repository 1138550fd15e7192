//! The generated part of the documentation: the command `flotilla reference`, which is not listed in
//! the help, prints one file of `docs/reference/` at a time.

mod command_line;
mod resources;

use clap::CommandFactory;
use flotilla_core::spec::{Model, Router, Task, json_schema};

use crate::args::{Args, ReferenceCommand, ResourceKind};

/// Returns the text of a file under `docs/reference/`.
pub(crate) fn text(command: ReferenceCommand) -> anyhow::Result<String> {
    Ok(match command {
        ReferenceCommand::Cli => command_line::markdown(Args::command()),
        ReferenceCommand::Resources => resources::markdown(),
        ReferenceCommand::Schema { kind } => {
            let schema = match kind {
                ResourceKind::Model => json_schema::<Model>(),
                ResourceKind::Task => json_schema::<Task>(),
                ResourceKind::Router => json_schema::<Router>(),
            };
            serde_json::to_string_pretty(&schema)? + "\n"
        }
    })
}
