//! The start of the process: parses the command line and runs the command.

use std::process::ExitCode;

use clap::CommandFactory;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::args::{Args, Command, ModelCommand};
use crate::{
    access, agent, apply, audit, backup, chat, controller, dataset, delete, describe, eval,
    explain, get, keys, logging, login, node_operations, push, reference, runner, tasks, top, up,
};

/// Runs the command on the process's command line and returns the exit code of the process.
pub fn main() -> ExitCode {
    let args = Args::of_this_process();
    logging::start(&args.log, args.log_format, &args.command);
    if args.command.is_server() {
        raise_file_limit();
    } else {
        exit_on_closed_output();
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
    let result = runtime.block_on(run(args.command, &args.log));
    // The command is complete; tasks that still run must not delay the exit.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: the chain of causes, outermost first.
            eprintln!("flotilla: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Restores the default action of SIGPIPE, so that a command in a pipe ends quietly when its
/// reader does, for example `head`. Rust ignores the signal, which is right for a server only.
fn exit_on_closed_output() {
    #[cfg(unix)]
    // SAFETY: no other thread runs yet, and the default action needs no handler.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Raises the limit on open files as far as the system lets the process: the usual 1,024 are few for a
/// server.
fn raise_file_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // If the system refuses, the limit stays as it is.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}

async fn run(command: Command, log: &str) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => up::run(args, log).await,
        Command::Controller(args) => controller::run(*args).await,
        Command::Agent(args) => agent::run(*args, log).await,
        Command::Runner(args) => runner::run(args).await,
        Command::Chat(args) => chat::run(args).await,
        Command::Route(args) => explain::route(args).await,
        Command::Explain(args) => explain::explain(args).await,
        Command::Eval(args) => eval::run(args).await,
        Command::Tasks(command) => tasks::run(command).await,
        Command::Dataset(command) => dataset::run(command).await,
        Command::Get(args) => get::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Describe(args) => describe::run(args).await,
        Command::Apply(args) => apply::run(args).await,
        Command::Delete(args) => delete::run(args).await,
        Command::Key(command) => keys::run(command).await,
        Command::Audit(args) => audit::run(args).await,
        Command::Login(args) => login::login(args).await,
        Command::Context(command) => login::context(command),
        Command::Model(ModelCommand::Push(args)) => push::run(args).await,
        Command::Backup(args) => backup::backup(args).await,
        Command::Restore(args) => backup::restore(args).await,
        Command::Cordon(args) => node_operations::cordon(args).await,
        Command::Uncordon(args) => node_operations::uncordon(args).await,
        Command::Drain(args) => node_operations::drain(args).await,
        Command::Secret(command) => access::secret(command),
        Command::Token(command) => access::token(command).await,
        Command::Node(command) => access::node(command).await,
        Command::Completions { shell } => {
            let mut command = Args::command();
            clap_complete::generate(shell, &mut command, "flotilla", &mut std::io::stdout());
            Ok(())
        }
        Command::Reference(file) => {
            print!("{}", reference::text(file)?);
            Ok(())
        }
    }
}
