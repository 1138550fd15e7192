//! `flotilla login` and `flotilla context`: the fleets that this user works with.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context as _, bail};
use flotilla_controller::admin::PrincipalResource;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal;
use reqwest::{StatusCode, Url};
use serde::Serialize;

use crate::args::{ContextCommand, LoginArgs};
use crate::client::{FleetClient, check_status, read_json};
use crate::connection_error::without_credentials;
use crate::contexts::{self, FleetContext};
use crate::fleet_address::{FleetAddress, read_key};
use crate::output;

/// The path that says who sends a request.
const WHOAMI: [&str; 3] = ["api", "v1", "whoami"];
/// The longest key that is read from standard input, in bytes.
const MAX_KEY: u64 = 4_096;

/// Checks the key, and saves the fleet as the current context.
pub(crate) async fn login(args: LoginArgs) -> anyhow::Result<()> {
    let file = contexts::file()?;
    let mut contexts = contexts::load(&file)?;
    let url = args.url.trim_end_matches('/').to_owned();
    let name = args.name.map_or_else(|| name_of(&url), Ok)?;
    let ca_file = args.ca_file.map(std::path::absolute).transpose()?;
    let mut address = FleetAddress {
        url,
        key: args.key_file.as_deref().map(read_key).transpose()?,
        ca_file,
    };
    let mut identity = identify(&address).await?;
    if identity.is_none() && address.key.is_none() {
        address.key = Some(read_key_from_input()?);
        warn_without_tls(&address.url);
        identity = identify(&address).await?;
    }
    let Some(identity) = identity else {
        bail!("the fleet does not accept the key: it may be mistyped, expired or revoked");
    };
    contexts.set_current(FleetContext {
        name: name.clone(),
        url: address.url,
        ca_file: address.ca_file,
        key: address.key,
        key_command: Vec::new(),
    });
    contexts::save(&file, &contexts)?;
    println!(
        "logged in as {} with the role {}: the context '{name}' is the current one",
        identity.name, identity.role
    );
    Ok(())
}

/// Runs a command about contexts.
pub(crate) fn context(command: ContextCommand) -> anyhow::Result<()> {
    let file = contexts::file()?;
    let mut contexts = contexts::load(&file)?;
    match command {
        ContextCommand::List { output } => return list(&file, output),
        ContextCommand::Use { name } => {
            contexts.use_context(&name)?;
            contexts::save(&file, &contexts)?;
            println!("the context '{name}' is the current one");
        }
        ContextCommand::Delete { name } => {
            contexts.remove(&name)?;
            contexts::save(&file, &contexts)?;
            println!("context/{name} deleted");
        }
    }
    Ok(())
}

/// A context as a list shows it.
#[derive(Serialize)]
struct ContextRow {
    name: String,
    url: String,
    current: bool,
}

fn list(file: &Path, format: crate::args::OutputFormat) -> anyhow::Result<()> {
    let contexts = contexts::load(file)?;
    let current = contexts.current_context;
    let rows = contexts.contexts.into_iter().map(|context| ContextRow {
        current: Some(&context.name) == current.as_ref(),
        url: without_credentials(&context.url),
        name: context.name,
    });
    let rows: Vec<_> = rows.collect();
    if output::print_serialized(format, &rows)? {
        return Ok(());
    }
    if rows.is_empty() {
        println!("There are no contexts: add one with `flotilla login URL`.");
        return Ok(());
    }
    let rows = rows.into_iter().map(|row| {
        let mark = if row.current { "*" } else { "" };
        vec![mark.to_owned(), row.name, row.url]
    });
    print!("{}", output::table(&["", "NAME", "URL"], rows));
    Ok(())
}

/// Returns who the fleet takes this user for. `None`: it does not accept the key, or needs one.
async fn identify(address: &FleetAddress) -> anyhow::Result<Option<PrincipalResource>> {
    let fleet = FleetClient::of(address.clone())?;
    let response = fleet.get_unchecked(&WHOAMI).await?;
    if response.status() == StatusCode::UNAUTHORIZED {
        return Ok(None);
    }
    read_json(check_status(response).await?).await.map(Some)
}

/// The default name of the context of a fleet: its host.
fn name_of(url: &str) -> anyhow::Result<String> {
    let parsed = Url::parse(url).ok();
    let host = parsed.as_ref().and_then(Url::host_str);
    let host =
        host.with_context(|| format!("'{}' has no host: give --name", without_credentials(url)))?;
    Ok(host.to_owned())
}

/// Warns of a key that others can read on its way.
fn warn_without_tls(url: &str) {
    let Ok(url) = Url::parse(url) else {
        return;
    };
    let host = url.host_str().unwrap_or_default();
    let is_local = matches!(host, "localhost" | "127.0.0.1" | "[::1]");
    if url.scheme() == "http" && !is_local {
        eprintln!("warning: the key is sent to {host} without TLS");
    }
}

/// Reads a key from standard input, without showing it if a person types it.
fn read_key_from_input() -> anyhow::Result<String> {
    let key = if std::io::stdin().is_terminal() {
        read_hidden_line("API key: ")?
    } else {
        let mut text = String::new();
        std::io::stdin().take(MAX_KEY).read_to_string(&mut text)?;
        text
    };
    let key = key.trim();
    if key.is_empty() {
        bail!("the fleet requires an API key: give it on standard input or with --key-file");
    }
    Ok(key.to_owned())
}

/// Reads a line from the terminal without showing it.
fn read_hidden_line(prompt: &str) -> anyhow::Result<String> {
    eprint!("{prompt}");
    std::io::stderr().flush()?;
    terminal::enable_raw_mode()?;
    let line = read_raw_line();
    terminal::disable_raw_mode()?;
    eprintln!();
    line
}

fn read_raw_line() -> anyhow::Result<String> {
    let mut line = String::new();
    loop {
        let Event::Key(key) = event::read()? else {
            continue;
        };
        if key.kind == KeyEventKind::Release {
            continue;
        }
        match key.code {
            KeyCode::Enter => return Ok(line),
            KeyCode::Backspace => {
                line.pop();
            }
            KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                bail!("no key was given");
            }
            KeyCode::Char(c) if (line.len() as u64) < MAX_KEY => line.push(c),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_named_after_the_host() {
        assert_eq!(
            name_of("https://fleet.example:8443").unwrap(),
            "fleet.example"
        );
        assert!(name_of("unix:/run/admin.sock").is_err());
    }
}
