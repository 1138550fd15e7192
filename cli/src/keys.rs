//! `flotilla key`: API keys of people and programs.

use anyhow::{Context as _, bail};
use flotilla_controller::admin::CreatedKey;
use flotilla_core::access::AccessScope;
use flotilla_identity::keys::{KeyRecord, NewKey, Role};
use flotilla_telemetry::clock::unix_seconds;
use jiff::Timestamp;

use crate::args::{KeyCommand, KeyCreateArgs, KeyListArgs, KeyRevokeArgs};
use crate::client::{FleetClient, ListResponse, print_notes, read_json};
use crate::output;

/// The path of keys in the admin API.
const PATH: [&str; 3] = ["api", "v1", "keys"];

/// Runs a command about keys.
pub(crate) async fn run(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create(args) => create(args).await,
        KeyCommand::List(args) => list(args).await,
        KeyCommand::Revoke(args) => revoke(args).await,
    }
}

async fn create(args: KeyCreateArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let scope = AccessScope {
        zones: args.zones.map(|zones| zones.into_iter().collect()),
        models: args.models.map(|models| models.into_iter().collect()),
        tasks: args.tasks.map(|tasks| tasks.into_iter().collect()),
    };
    if scope.tasks.is_some() && scope.models.is_none() {
        eprintln!(
            "note: requests with this key may still name every model: add --models to limit them"
        );
    }
    let new = NewKey {
        name: args.name,
        role: args.role.into(),
        scope,
        expires: args
            .expires
            .map(|time| unix_seconds().saturating_add(time.0.as_secs())),
    };
    let body = serde_json::to_value(&new)?;
    let created: CreatedKey = read_json(fleet.post(&PATH, &body).await?).await?;
    if !output::print_serialized(args.output, &created)? {
        println!("{}", created.key);
    }
    Ok(())
}

async fn list(args: KeyListArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let list: ListResponse<KeyRecord> = fleet.get(&PATH).await?;
    print_notes(&list.notes);
    if output::print_serialized(args.output, &list.items)? {
        return Ok(());
    }
    if list.items.is_empty() {
        println!("The fleet has no keys: create one with `flotilla key create NAME --role ROLE`.");
        return Ok(());
    }
    let mut keys = list.items;
    keys.sort_by(|a, b| a.name.cmp(&b.name));
    let now = unix_seconds();
    let rows = keys.into_iter().map(|key| row(&key, now));
    let header = ["NAME", "ID", "ROLE", "SCOPE", "CREATED", "EXPIRES"];
    print!("{}", output::table(&header, rows));
    Ok(())
}

fn row(key: &KeyRecord, now: u64) -> Vec<String> {
    let scope = match key.role {
        Role::Inference => key.scope.to_string(),
        _ => "-".to_owned(),
    };
    let expires = match key.expires {
        Some(_) if key.is_expired(now) => "expired".to_owned(),
        Some(expires) => date(expires),
        None => "never".to_owned(),
    };
    vec![
        key.name.to_string(),
        key.id.to_string(),
        key.role.to_string(),
        scope,
        date(key.created),
        expires,
    ]
}

/// A time in seconds since 1970 as a date and time in UTC.
fn date(seconds: u64) -> String {
    let timestamp = i64::try_from(seconds).ok();
    let timestamp = timestamp.and_then(|seconds| Timestamp::from_second(seconds).ok());
    timestamp.map_or_else(|| "-".to_owned(), |time| time.to_string())
}

async fn revoke(args: KeyRevokeArgs) -> anyhow::Result<()> {
    let fleet = FleetClient::new(&args.endpoint)?;
    let list: ListResponse<KeyRecord> = fleet.get(&PATH).await?;
    // All are found before the first is revoked.
    let found = args.keys.iter().map(|wanted| find(&list.items, wanted));
    let found = found.collect::<anyhow::Result<Vec<_>>>()?;
    for (id, name) in found {
        fleet.delete(&[PATH[0], PATH[1], PATH[2], &id]).await?;
        println!("key/{name} revoked");
    }
    Ok(())
}

/// Returns the id and the name of a key that is named by either.
fn find(keys: &[KeyRecord], wanted: &str) -> anyhow::Result<(String, String)> {
    if let Some(key) = keys.iter().find(|key| key.id.as_str() == wanted) {
        return Ok((key.id.to_string(), key.name.to_string()));
    }
    let mut named = keys.iter().filter(|key| key.name.as_str() == wanted);
    let key = named.next().with_context(|| {
        format!("there is no key '{wanted}': `flotilla key list` lists the keys")
    })?;
    if named.next().is_some() {
        bail!("several keys are named '{wanted}': give the id, which `flotilla key list` shows");
    }
    Ok((key.id.to_string(), key.name.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::KeyName;

    fn record(name: &str, expires: Option<u64>) -> KeyRecord {
        let new = NewKey {
            name: KeyName::new(name).unwrap(),
            role: Role::Inference,
            scope: AccessScope::default(),
            expires,
        };
        new.generate(1_000).unwrap().1
    }

    #[test]
    fn a_key_is_named_by_its_name_or_id() {
        let keys = [
            record("a", None),
            record("twice", None),
            record("twice", None),
        ];
        let id = keys[0].id.to_string();
        assert_eq!(find(&keys, "a").unwrap().0, id);
        assert_eq!(find(&keys, &id).unwrap().0, id);
        assert!(find(&keys, "twice").is_err() && find(&keys, "none").is_err());
        assert!(find(&keys, keys[2].id.as_str()).is_ok());
    }

    #[test]
    fn a_row_says_whether_a_key_has_expired() {
        let key = record("a", Some(2_000));
        assert_eq!(row(&key, 1_999)[5], "1970-01-01T00:33:20Z");
        assert_eq!(row(&key, 2_000)[5], "expired");
        assert_eq!(row(&record("a", None), 2_000)[3..][2..], ["never"]);
    }
}
