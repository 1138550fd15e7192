//! The one binary: `up`, `controller` and `agent` run a fleet; the other commands talk to
//! one over its HTTP API. Owns the command line and what people read; everything a command
//! *does* is a call into another crate. Start reading at [`args`].

mod agent;
mod allocator;
mod apply;
mod args;
mod backup;
mod chat;
mod client;
mod controller;
mod delete;
mod describe;
mod eval;
mod explain;
mod get;
mod logging;
mod manifest;
mod nodes;
mod output;
mod push;
mod shutdown;
mod top;
mod up;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Args, Command, ModelCommand};

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let args = Args::parse();
    logging::start(&args.log, args.log_format, &args.command);
    if !args.command.serves() {
        end_with_the_reader();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("flotilla: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(args.command));
    // Nothing of the async world is needed any more: what still runs there is cut off.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: the chain of causes, outermost first.
            eprintln!("flotilla: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Has a command whose output nobody reads any more end, as `head` expects, instead of failing to
/// print. Rust ignores that signal, which is right for a server.
fn end_with_the_reader() {
    #[cfg(unix)]
    // SAFETY: no other thread runs yet, and the default action needs no handler.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => up::run(args).await,
        Command::Controller(args) => controller::run(*args).await,
        Command::Agent(args) => agent::run(args).await,
        Command::Chat(args) => chat::run(args).await,
        Command::Route(args) => explain::route(args).await,
        Command::Explain(args) => explain::explain(args).await,
        Command::Eval(args) => eval::run(args).await,
        Command::Get(args) => get::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Describe(args) => describe::run(args).await,
        Command::Apply(args) => apply::run(args).await,
        Command::Delete(args) => delete::run(args).await,
        Command::Model(ModelCommand::Push(args)) => push::run(args).await,
        Command::Backup(args) => backup::backup(args).await,
        Command::Restore(args) => backup::restore(args).await,
        Command::Cordon(args) => nodes::cordon(args).await,
        Command::Uncordon(args) => nodes::uncordon(args).await,
        Command::Drain(args) => nodes::drain(args).await,
        Command::Completions { shell } => {
            let mut command = Args::command();
            clap_complete::generate(shell, &mut command, "flotilla", &mut std::io::stdout());
            Ok(())
        }
    }
}
