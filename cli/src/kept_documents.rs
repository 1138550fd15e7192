//! The documents of a desired state that a controller kept on its disk, to restore a fleet from it whose
//! store is lost.

use anyhow::Context;
use flotilla_controller::store::keys::{self, StoreKey};
use flotilla_core::kept_state::{KeptEntry, KeptState, KeptStateHeader};
use flotilla_core::spec::Resource;
use serde_json::Value;

use crate::backup_documents::{Backup, BackupDocument};

/// Returns what a kept desired state has, in the order of a backup. `None`: the content is none.
pub(crate) fn parse(content: &[u8]) -> Option<anyhow::Result<Backup>> {
    let first_line = content.split(|byte| *byte == b'\n').next()?;
    KeptStateHeader::read(first_line)?;
    let state = KeptState::decode(content).context("the kept desired state cannot be used");
    Some(state.map(|state| read(&state)))
}

fn read(state: &KeptState) -> Backup {
    let mut backup = Backup {
        documents: Vec::new(),
        unreadable: Vec::new(),
    };
    for entry in &state.entries {
        match read_entry(entry, state.epoch) {
            Ok(document) => backup.documents.extend(document),
            Err(error) => backup.unreadable.push(format!("{} ({error:#})", entry.key)),
        }
    }
    // Models refer to artifacts.
    backup.documents.sort_by_key(|document| match document {
        BackupDocument::Authority(_) => 0,
        BackupDocument::Enrolment(_) => 1,
        BackupDocument::Fleet(_) => 1,
        BackupDocument::Artifact(_) => 2,
        BackupDocument::Resource(_) => 3,
        BackupDocument::NodeOperation(_) | BackupDocument::Key(_) => 4,
    });
    backup
}

/// Reads an entry. `None`: a backup does not have it, since the fleet decides or reports it.
fn read_entry(entry: &KeptEntry, epoch: u64) -> anyhow::Result<Option<BackupDocument>> {
    Ok(match keys::parse(&entry.key) {
        Some(StoreKey::FleetId) => Some(BackupDocument::fleet(entry.value.clone(), epoch)),
        Some(StoreKey::Model(_) | StoreKey::Task(_) | StoreKey::Router) => {
            let mut stored: Value = serde_json::from_str(&entry.value)?;
            let (resource, _) = Resource::from_stored_json(stored["resource"].take())?;
            Some(BackupDocument::Resource(Box::new(resource)))
        }
        Some(StoreKey::PushedManifest(name)) => {
            let files = serde_json::from_str(&entry.value)?;
            Some(BackupDocument::artifact(name.to_string(), files))
        }
        Some(StoreKey::Authority) => Some(BackupDocument::authority(serde_json::from_str(
            &entry.value,
        )?)),
        Some(StoreKey::Enrolment(name)) => {
            let enrolment = serde_json::from_str(&entry.value)?;
            Some(BackupDocument::enrolment(name.to_string(), enrolment))
        }
        Some(StoreKey::ApiKey(_)) => {
            let record = serde_json::from_str(&entry.value)?;
            Some(BackupDocument::key(record))
        }
        Some(StoreKey::NodeOperation(name)) => {
            let operation = serde_json::from_str(&entry.value)?;
            Some(BackupDocument::node_operation(name.to_string(), operation))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::spec::API_VERSION;
    use flotilla_core::{NodeName, StoreRevision};
    use serde_json::json;

    #[test]
    fn kept_desired_state_has_the_documents_of_a_backup() {
        let entry = |key: &str, value: Value| KeptEntry {
            key: key.into(),
            value: value.to_string(),
            revision: StoreRevision(1),
        };
        let model = json!({"created": 1, "resource": {
            "apiVersion": API_VERSION, "kind": "Model", "metadata": {"name": "m"},
            "spec": {"engine": "simulated"},
        }});
        let node = NodeName::new("n").unwrap();
        let state = KeptState {
            fleet_id: "f".into(),
            epoch: 3,
            revision: StoreRevision(1),
            saved_at: 1,
            entries: vec![
                entry("/flotilla/v1/assignments/n/m", json!({"revision": 1})),
                entry("/flotilla/v1/models/m", model),
                entry(
                    "/flotilla/v1/models/of-a-later-version",
                    json!({"resource": 7}),
                ),
                entry(&keys::node_operation(&node), json!({"cordoned": true})),
                entry("/flotilla/v1/pushed/a", json!({"files": []})),
                KeptEntry {
                    key: keys::FLEET_ID.into(),
                    value: "f".into(),
                    revision: StoreRevision(1),
                },
            ],
        };
        let content = state.encode();
        let Backup {
            documents,
            unreadable,
        } = parse(&content).unwrap().unwrap();
        assert_eq!(unreadable.len(), 1, "{unreadable:?}");
        assert!(unreadable[0].contains("of-a-later-version"));
        let text = crate::backup_documents::text(&documents).unwrap();
        assert!(text.contains("epoch: 3"), "{text}");
        let kinds = [
            "kind: Fleet",
            "kind: Artifact",
            "kind: Model",
            "kind: NodeOperation",
        ];
        let positions = kinds.map(|kind| text.find(kind).unwrap());
        assert!(positions.is_sorted() && documents.len() == 4, "{text}");
        assert!(parse(b"---\nkind: Model\n").is_none());
        let damaged = parse(&content[..content.len() - 9]).unwrap().unwrap_err();
        assert!(format!("{damaged:#}").contains("damaged"), "{damaged:#}");
    }
}
