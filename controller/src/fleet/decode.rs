//! Decodes entries of the store into typed values. What a later version has added is left out and
//! named, so that an older controller serves what it understands.

use std::sync::Arc;

use flotilla_core::artifact::Manifest;
use flotilla_core::known_fields::read_known_fields;
use flotilla_core::placement::Assignment;
use flotilla_core::spec::{Model, Resource, Router, RouterSpec, ValidationErrors};
use flotilla_core::{ArtifactName, ModelName, ModelRevision, NodeName, StoreRevision, TaskName};
use flotilla_identity::authority::AuthorityRecord;
use flotilla_identity::enrolment::{Enrolment, JoinTokenRecord};
use flotilla_identity::keys::{ControllerSecret, KeyRecord};
use serde::de::DeserializeOwned;

use super::records::{
    AssignmentRecord, ControllerRecord, DesiredRecord, FailedRevisionRecord, FetchRecord,
    LinkRecord, NodeOperationRecord, NodeRecord, StableRecord, WaitingRecord,
};
use flotilla_dispatch::{QualityRecord, TaskView};

use super::manifests;
use super::replaced_revisions::ModelAtRevision;
use crate::store::keys::{self, StoreKey};

/// A decoded entry of the store. The variants are those of [`StoreKey`], which documents them.
pub(super) enum StoredValue {
    Model(ModelName, Box<DesiredModelState>),
    Task(TaskName, Box<TaskView>),
    Router(RouterSpec),
    Quality(TaskName, ModelName, QualityRecord),
    StableRevision(ModelName, ModelAtRevision),
    FailedRevision(ModelName, FailedRevisionRecord),
    Node(NodeName, NodeRecord),
    NodeOperation(NodeName, NodeOperationRecord),
    GivenUp(NodeName),
    Assignment(Assignment, ModelRevision),
    PushedManifest(ArtifactName, Manifest),
    FetchedManifest(String, Manifest),
    FetchProgress(String, FetchRecord),
    Controller(String, ControllerRecord),
    /// The node, the id of the controller, and the link.
    Link(NodeName, String, LinkRecord),
    /// The model, the id of the controller, and the number of requests.
    Waiting(ModelName, String, u32),
    Leader(String),
    FleetId(String),
    Epoch(u64),
    Authority(Box<AuthorityRecord>),
    Enrolment(NodeName, Box<Enrolment>),
    JoinToken(String, Box<JoinTokenRecord>),
    ControllerSecret(Box<ControllerSecret>),
    ApiKey(Box<KeyRecord>),
}

/// The desired state of a model.
pub(super) struct DesiredModelState {
    pub(super) model: Model,
    /// The revision of the store that wrote it.
    pub(super) stored_revision: StoreRevision,
    /// When the model was first applied, in seconds since 1970.
    pub(super) created: u64,
}

/// Decodes the value under `key`, which the store's `revision` wrote. Returns it with the paths of the
/// fields that this version does not know.
///
/// # Errors
/// What is wrong with the value.
pub(super) fn decode(
    key: StoreKey,
    value: Vec<u8>,
    revision: StoreRevision,
) -> Result<(StoredValue, Vec<String>), String> {
    let mut decoder = Decoder::default();
    let value = decoder.decode(key, value, revision)?;
    Ok((value, decoder.unknown))
}

/// Collects the paths of unknown fields.
#[derive(Default)]
struct Decoder {
    unknown: Vec<String>,
}

impl Decoder {
    fn decode(
        &mut self,
        key: StoreKey,
        value: Vec<u8>,
        revision: StoreRevision,
    ) -> Result<StoredValue, String> {
        Ok(match key {
            StoreKey::Model(name) => {
                let record: DesiredRecord = self.json(&value)?;
                let desired = DesiredModelState {
                    model: self.resource(record.resource)?,
                    stored_revision: revision,
                    created: record.created,
                };
                StoredValue::Model(name, Box::new(desired))
            }
            StoreKey::Task(name) => {
                let record: DesiredRecord = self.json(&value)?;
                let task = TaskView::new(self.resource(record.resource)?, record.created)?;
                StoredValue::Task(name, Box::new(task))
            }
            StoreKey::Router => {
                let record: DesiredRecord = self.json(&value)?;
                let router: Router = self.resource(record.resource)?;
                StoredValue::Router(router.spec)
            }
            StoreKey::Quality(task, model) => StoredValue::Quality(task, model, self.json(&value)?),
            StoreKey::StableRevision(name) => {
                let record: StableRecord = self.json(&value)?;
                let model: Model = self.resource(record.resource)?;
                let stable = ModelAtRevision {
                    revision: manifests::model_revision(&model, record.manifest.as_ref()),
                    model: Arc::new(model),
                    manifest: record.manifest.map(Arc::new),
                };
                StoredValue::StableRevision(name, stable)
            }
            StoreKey::FailedRevision(name) => StoredValue::FailedRevision(name, self.json(&value)?),
            StoreKey::Node(name) => StoredValue::Node(name, self.json(&value)?),
            StoreKey::NodeOperation(name) => StoredValue::NodeOperation(name, self.json(&value)?),
            StoreKey::GivenUp(name) => StoredValue::GivenUp(name),
            StoreKey::Assignment(assignment) => {
                let record: AssignmentRecord = self.json(&value)?;
                StoredValue::Assignment(assignment, record.revision)
            }
            StoreKey::PushedManifest(name) => StoredValue::PushedManifest(name, self.json(&value)?),
            StoreKey::FetchedManifest(id) => StoredValue::FetchedManifest(id, self.json(&value)?),
            StoreKey::FetchProgress(id) => StoredValue::FetchProgress(id, self.json(&value)?),
            StoreKey::Controller(id) => StoredValue::Controller(id, self.json(&value)?),
            StoreKey::Link(node, controller_id) => {
                StoredValue::Link(node, controller_id, self.json(&value)?)
            }
            StoreKey::Waiting(model, controller_id) => {
                let record: WaitingRecord = self.json(&value)?;
                StoredValue::Waiting(model, controller_id, record.requests)
            }
            StoreKey::Authority => StoredValue::Authority(self.json(&value)?),
            StoreKey::Enrolment(node) => StoredValue::Enrolment(node, self.json(&value)?),
            StoreKey::JoinToken(id) => StoredValue::JoinToken(id, self.json(&value)?),
            StoreKey::Leader => StoredValue::Leader(text(value)?),
            StoreKey::FleetId => StoredValue::FleetId(text(value)?),
            StoreKey::Epoch => {
                let epoch = keys::parse_epoch(&value).ok_or("it is no number")?;
                StoredValue::Epoch(epoch)
            }
            StoreKey::ControllerSecret => {
                let secret = ControllerSecret::parse(&text(value)?);
                StoredValue::ControllerSecret(Box::new(secret.ok_or("it is no secret")?))
            }
            // Not as far as it is understood: a restriction that is left out would let the key do more.
            StoreKey::ApiKey(id) => {
                let record: KeyRecord =
                    serde_json::from_slice(&value).map_err(|error| error.to_string())?;
                if record.id != id {
                    return Err("it is the record of another key".into());
                }
                StoredValue::ApiKey(Box::new(record))
            }
        })
    }

    fn json<T: DeserializeOwned>(&mut self, value: &[u8]) -> Result<T, String> {
        // Most entries have no unknown field.
        if let Ok(known) = serde_json::from_slice(value) {
            return Ok(known);
        }
        let value = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        let (known, mut unknown) = read_known_fields(value).map_err(|error| error.to_string())?;
        self.unknown.append(&mut unknown);
        Ok(known)
    }

    /// Parses and validates a stored resource of the kind `T`.
    fn resource<T>(&mut self, resource: serde_json::Value) -> Result<T, String>
    where
        T: TryFrom<Resource, Error = ValidationErrors>,
    {
        let (resource, mut unknown) =
            Resource::from_stored_json(resource).map_err(|error| error.to_string())?;
        self.unknown.append(&mut unknown);
        T::try_from(resource).map_err(|error| error.to_string())
    }
}

fn text(value: Vec<u8>) -> Result<String, String> {
    String::from_utf8(value).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keys;

    fn decode_text(key: &str, value: &str) -> Result<(StoredValue, Vec<String>), String> {
        decode(keys::parse(key).unwrap(), value.into(), StoreRevision(1))
    }

    #[test]
    fn value_that_is_not_of_its_keys_kind_is_an_error() {
        assert!(decode_text("/flotilla/v1/models/m", "{}").is_err());
        assert!(decode_text("/flotilla/v1/nodes/n", "[]").is_err());
        assert!(decode_text("/flotilla/v1/assignments/n/m", "no JSON").is_err());
    }

    #[test]
    fn a_key_with_a_restriction_of_a_later_version_is_not_decoded_without_it() {
        let record = r#"{"id": "0123456789ab", "name": "n", "role": "inference", "digest": "HASH",
            "scope": {"regions": ["eu"]}, "created": 1}"#;
        let record = record.replace("HASH", &"0".repeat(64));
        assert!(decode_text("/flotilla/v1/keys/0123456789ab", &record).is_err());
        let known = record.replace("regions", "zones");
        assert!(decode_text("/flotilla/v1/keys/0123456789ab", &known).is_ok());
        assert!(decode_text("/flotilla/v1/keys/ffffffffffff", &known).is_err());
    }

    #[test]
    fn unknown_fields_of_a_later_version_are_ignored() {
        let decoded = decode_text("/flotilla/v1/waiting/m/c", r#"{"requests": 3, "new": 1}"#);
        assert!(matches!(decoded, Ok((StoredValue::Waiting(_, _, 3), _))));
        let manifest = r#"{"files": [{"path": "a", "size": 1, "sha256": "HASH", "mode": 7}]}"#;
        let manifest = manifest.replace("HASH", &"0".repeat(64));
        let (value, unknown) = decode_text("/flotilla/v1/pushed/a", &manifest).unwrap();
        assert!(matches!(value, StoredValue::PushedManifest(_, files) if files.files.len() == 1));
        assert_eq!(unknown, ["files[0].mode"]);
    }
}
