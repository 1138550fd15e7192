//! `flotilla secret`, `token` and `node`: who belongs to a fleet.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use flotilla_controller::admin::{CreatedJoinToken, JoinTokenResource, NewJoinToken};
use flotilla_core::HumanDuration;
use flotilla_identity::authority::FleetSecret;
use flotilla_telemetry::clock::unix_seconds;

use crate::args::{
    NodeCommand, OutputFormat, RevokeArgs, SecretCommand, TokenCommand, TokenCreateArgs,
    TokenListArgs,
};
use crate::client::{FleetClient, ListResponse, print_notes, read_json};
use crate::output;

/// The path of the join tokens.
const TOKENS_PATH: [&str; 3] = ["api", "v1", "tokens"];

/// Runs a command about a fleet's secret.
pub(crate) fn secret(command: SecretCommand) -> anyhow::Result<()> {
    let SecretCommand::Create { file } = command;
    create_secret(&file)?;
    println!(
        "{} written: give every controller of the fleet a copy (owner only, chmod 600), start it with --secret-file, and keep one in a safe place: without it, all nodes have to enrol anew",
        file.display()
    );
    Ok(())
}

/// Creates the file with a new secret.
///
/// # Errors
/// If there is such a file already, or it cannot be written.
pub(crate) fn create_secret(file: &Path) -> anyhow::Result<()> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).context("there is no randomness for a secret")?;
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(file);
    let mut opened = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => bail!(
            "{} exists already, and a fleet's secret is never overwritten: choose another file",
            file.display()
        ),
        opened => opened.with_context(|| format!("cannot create {}", file.display()))?,
    };
    opened
        .write_all(FleetSecret::text(random).as_bytes())
        .and_then(|()| opened.sync_all())
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Runs a command about join tokens.
pub(crate) async fn token(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(args) => create_token(args).await,
        TokenCommand::List(args) => list_tokens(args).await,
        TokenCommand::Delete(args) => {
            let fleet = FleetClient::new(&args.endpoint)?;
            fleet
                .delete(&[&TOKENS_PATH[..], &[&args.id]].concat())
                .await?;
            println!("token/{} deleted", args.id);
            Ok(())
        }
    }
}

/// Creates a token. Standard output has it alone, so that it can be sent to a file.
async fn create_token(args: TokenCreateArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let new = NewJoinToken {
        node: args.node,
        zones: args.zones.into_iter().collect(),
        labels: args.labels.into_iter().collect(),
        ttl: args.ttl,
        uses: args.uses,
    };
    let response = fleet
        .post(&TOKENS_PATH, &serde_json::to_value(&new)?)
        .await?;
    let created: CreatedJoinToken = read_json(response).await?;
    println!("{}", created.token);
    eprintln!(
        "token/{} created for {} within {}: put it into a file on the new machine and run `flotilla agent --join HOST:PORT --name {} --token-file FILE`",
        created.id,
        match new.uses {
            1 => "one node".to_owned(),
            uses => format!("{uses} nodes"),
        },
        new.ttl,
        new.node
            .map_or_else(|| "NAME".to_owned(), |node| node.to_string()),
    );
    Ok(())
}

async fn list_tokens(args: TokenListArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let tokens: ListResponse<JoinTokenResource> = fleet.get(&TOKENS_PATH).await?;
    match args.output {
        OutputFormat::Table => {
            print_notes(&tokens.notes);
            let now = unix_seconds();
            let rows = tokens.items.iter().map(|token| row(token, now));
            let columns = [
                "ID",
                "STATE",
                "USED",
                "EXPIRES IN",
                "NODE",
                "ZONES",
                "LABELS",
            ];
            println!("{}", output::table(&columns, rows));
        }
        format => {
            output::print_serialized(format, &tokens.items)?;
        }
    }
    Ok(())
}

fn row(token: &JoinTokenResource, now: u64) -> Vec<String> {
    let or_dash = |text: String| match text.as_str() {
        "" => "-".to_owned(),
        _ => text,
    };
    let left = token.expires.saturating_sub(now);
    let zones: Vec<_> = token.zones.iter().map(ToString::to_string).collect();
    let labels = token
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    vec![
        token.id.clone(),
        token.state.clone(),
        format!("{} of {}", token.used, token.uses),
        match left {
            0 => "-".to_owned(),
            left => HumanDuration(Duration::from_secs(left)).to_string(),
        },
        or_dash(
            token
                .node
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
        ),
        or_dash(zones.join(",")),
        or_dash(labels.collect::<Vec<_>>().join(",")),
    ]
}

/// Runs a command about enrolled nodes.
pub(crate) async fn node(command: NodeCommand) -> anyhow::Result<()> {
    let NodeCommand::Revoke(RevokeArgs { names, endpoint }) = command;
    let fleet = FleetClient::new(&endpoint)?;
    for name in &names {
        let path = ["api", "v1", "nodes", name, "revoke"];
        fleet.post(&path, &serde_json::json!({})).await?;
        println!("node/{name} revoked");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_for_its_owner_alone_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        create_secret(&file).unwrap();
        let content = std::fs::read(&file).unwrap();
        assert!(FleetSecret::new(&content).is_ok());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let refused = create_secret(&file).unwrap_err().to_string();
        assert!(refused.contains("never overwritten"), "{refused}");
        assert_eq!(std::fs::read(&file).unwrap(), content);
    }
}
