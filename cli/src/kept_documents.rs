//! The documents of a desired state that a controller kept on its disk, to restore a fleet from it whose
//! store is lost.

use anyhow::Context;
use flotilla_controller::store::keys::{self, StoreKey};
use flotilla_core::kept_state::{KeptEntry, KeptState};
use flotilla_core::spec::{API_VERSION, Resource};
use serde_json::Value;

use crate::backup_documents::{
    ArtifactDocument, ArtifactKind, BackupDocument, DocumentMetadata, FleetDocument, FleetKind,
    NodeOperationDocument, NodeOperationKind,
};

/// Returns the documents of a kept desired state, in the order of a backup. `None`: the content is none.
pub(crate) fn parse(content: &[u8]) -> Option<anyhow::Result<Vec<BackupDocument>>> {
    let first_line = content.split(|byte| *byte == b'\n').next()?;
    KeptState::fleet_id_of(first_line)?;
    Some(decode(content))
}

fn decode(content: &[u8]) -> anyhow::Result<Vec<BackupDocument>> {
    let state = KeptState::decode(content).context("the kept desired state cannot be used")?;
    let mut documents = Vec::new();
    for entry in &state.entries {
        let document = read_entry(entry).with_context(|| format!("{} cannot be read", entry.key));
        documents.extend(document?);
    }
    // Models refer to artifacts.
    documents.sort_by_key(|document| match document {
        BackupDocument::Fleet(_) => 0,
        BackupDocument::Artifact(_) => 1,
        BackupDocument::Resource(_) => 2,
        BackupDocument::NodeOperation(_) => 3,
    });
    Ok(documents)
}

/// Reads an entry. `None`: a backup does not have it, since the fleet decides or reports it.
fn read_entry(entry: &KeptEntry) -> anyhow::Result<Option<BackupDocument>> {
    let metadata = |name: &str| DocumentMetadata { name: name.into() };
    Ok(match keys::parse(&entry.key) {
        Some(StoreKey::FleetId) => Some(BackupDocument::Fleet(FleetDocument {
            api_version: API_VERSION.into(),
            kind: FleetKind::Fleet,
            metadata: metadata(&entry.value),
        })),
        Some(StoreKey::Model(_) | StoreKey::Task(_) | StoreKey::Router) => {
            let mut stored: Value = serde_json::from_str(&entry.value)?;
            let (resource, _) = Resource::from_stored_json(stored["resource"].take())?;
            Some(BackupDocument::Resource(Box::new(resource)))
        }
        Some(StoreKey::PushedManifest(name)) => Some(BackupDocument::Artifact(ArtifactDocument {
            api_version: API_VERSION.into(),
            kind: ArtifactKind::Artifact,
            metadata: metadata(name.as_str()),
            spec: serde_json::from_str(&entry.value)?,
        })),
        Some(StoreKey::NodeOperation(name)) => {
            Some(BackupDocument::NodeOperation(NodeOperationDocument {
                api_version: API_VERSION.into(),
                kind: NodeOperationKind::NodeOperation,
                metadata: metadata(name.as_str()),
                spec: serde_json::from_str(&entry.value)?,
            }))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
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
            epoch: 0,
            revision: StoreRevision(1),
            saved_at: 1,
            entries: vec![
                entry("/flotilla/v1/assignments/n/m", json!({"revision": 1})),
                entry("/flotilla/v1/models/m", model),
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
        let documents = parse(&content).unwrap().unwrap();
        let text = crate::backup_documents::text(&documents).unwrap();
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
