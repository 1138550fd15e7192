//! The text of a backup: its YAML documents between two lines that show whether it is complete.

use anyhow::{Context, anyhow, bail};
use flotilla_controller::fleet::NodeOperationRecord;
use flotilla_core::artifact::Manifest;
use flotilla_core::spec::{API_VERSION, Resource};
use flotilla_identity::authority::AuthorityRecord;
use flotilla_identity::enrolment::Enrolment;
use flotilla_identity::keys::KeyRecord;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kept_documents;

/// The first line of a backup.
const FIRST_LINE: &str = "# flotilla backup";
/// The last line of a backup that is complete.
const LAST_LINE: &str = "# end of the backup";
/// What a file must be.
const EXPECTED: &str = "restore takes a file that `flotilla backup` wrote";

/// What a file has of a fleet.
#[derive(Debug)]
pub(crate) struct Backup {
    /// In the order in which they are restored.
    pub(crate) documents: Vec<BackupDocument>,
    /// What this version cannot read of the file, and why. The rest can be restored all the same.
    pub(crate) unreadable: Vec<String>,
}

/// A YAML document of a backup. Models, tasks and the router have the form in which they are
/// applied.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum BackupDocument {
    Resource(Box<Resource>),
    NodeOperation(NodeOperationDocument),
    Artifact(ArtifactDocument),
    Fleet(FleetDocument),
    Authority(AuthorityDocument),
    Enrolment(EnrolmentDocument),
    Key(Box<KeyDocument>),
}

/// The operation (cordon or drain) in effect on a node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NodeOperationDocument {
    pub(crate) api_version: String,
    pub(crate) kind: NodeOperationKind,
    pub(crate) metadata: DocumentMetadata,
    pub(crate) spec: NodeOperationRecord,
}

/// A pushed artifact: the paths, sizes and digests of its files, without their content.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ArtifactDocument {
    pub(crate) api_version: String,
    pub(crate) kind: ArtifactKind,
    pub(crate) metadata: DocumentMetadata,
    pub(crate) spec: Manifest,
}

/// An API key, whose name is its id: its name, role, scope and times, and a digest of its secret.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct KeyDocument {
    pub(crate) api_version: String,
    pub(crate) kind: KeyKind,
    pub(crate) metadata: DocumentMetadata,
    pub(crate) spec: KeyRecord,
}

/// The identity of the fleet, whose name is its id.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FleetDocument {
    pub(crate) api_version: String,
    pub(crate) kind: FleetKind,
    pub(crate) metadata: DocumentMetadata,
    #[serde(default)]
    pub(crate) spec: FleetDocumentSpec,
}

/// The fleet's certificate authority, whose private key stays encrypted. Its name is the id of the fleet that it was made
/// for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AuthorityDocument {
    pub(crate) api_version: String,
    pub(crate) kind: AuthorityKind,
    pub(crate) metadata: DocumentMetadata,
    pub(crate) spec: AuthorityRecord,
}

/// A node that has enrolled.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct EnrolmentDocument {
    pub(crate) api_version: String,
    pub(crate) kind: EnrolmentKind,
    pub(crate) metadata: DocumentMetadata,
    pub(crate) spec: Enrolment,
}

/// What a backup knows of a fleet besides its id.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FleetDocumentSpec {
    /// How often the revisions of the fleet's store had begun anew.
    #[serde(default)]
    pub(crate) epoch: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DocumentMetadata {
    pub(crate) name: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum NodeOperationKind {
    NodeOperation,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum KeyKind {
    ApiKey,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FleetKind {
    Fleet,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum AuthorityKind {
    Authority,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum EnrolmentKind {
    Enrolment,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ArtifactKind {
    Artifact,
}

impl BackupDocument {
    /// The identity of the fleet `id`.
    pub(crate) fn fleet(id: String, epoch: u64) -> Self {
        Self::Fleet(FleetDocument {
            api_version: API_VERSION.into(),
            kind: FleetKind::Fleet,
            metadata: DocumentMetadata { name: id },
            spec: FleetDocumentSpec { epoch },
        })
    }

    /// The files of the artifact `name`.
    pub(crate) fn artifact(name: String, files: Manifest) -> Self {
        Self::Artifact(ArtifactDocument {
            api_version: API_VERSION.into(),
            kind: ArtifactKind::Artifact,
            metadata: DocumentMetadata { name },
            spec: files,
        })
    }

    /// The fleet's authority.
    pub(crate) fn authority(record: AuthorityRecord) -> Self {
        Self::Authority(AuthorityDocument {
            api_version: API_VERSION.into(),
            kind: AuthorityKind::Authority,
            metadata: DocumentMetadata {
                name: record.fleet.clone(),
            },
            spec: record,
        })
    }

    /// The enrolment of the node `name`.
    pub(crate) fn enrolment(name: String, enrolment: Enrolment) -> Self {
        Self::Enrolment(EnrolmentDocument {
            api_version: API_VERSION.into(),
            kind: EnrolmentKind::Enrolment,
            metadata: DocumentMetadata { name },
            spec: enrolment,
        })
    }

    /// The record of an API key.
    pub(crate) fn key(record: KeyRecord) -> Self {
        Self::Key(Box::new(KeyDocument {
            api_version: API_VERSION.into(),
            kind: KeyKind::ApiKey,
            metadata: DocumentMetadata {
                name: record.id.to_string(),
            },
            spec: record,
        }))
    }

    /// The operation on the node `name`.
    pub(crate) fn node_operation(name: String, operation: NodeOperationRecord) -> Self {
        Self::NodeOperation(NodeOperationDocument {
            api_version: API_VERSION.into(),
            kind: NodeOperationKind::NodeOperation,
            metadata: DocumentMetadata { name },
            spec: operation,
        })
    }
}

/// Returns the text of a backup.
///
/// # Errors
/// Returns an error if a document cannot be written as YAML.
pub(crate) fn text(documents: &[BackupDocument]) -> anyhow::Result<String> {
    let mut text = format!("{FIRST_LINE}\n");
    for document in documents {
        text += "---\n";
        text += &serde_yaml_ng::to_string(document)?;
    }
    text += &format!("---\n{LAST_LINE}\n");
    Ok(text)
}

/// Reads the documents of a backup, or of a desired state that a controller kept.
///
/// # Errors
/// Returns an error that says what the content is not, and what it should be.
pub(crate) fn parse(content: Vec<u8>) -> anyhow::Result<Backup> {
    if let Some(kept) = kept_documents::parse(&content) {
        return kept;
    }
    // An archive may be UTF-8 all the same, and no text has zero bytes.
    let text = String::from_utf8(content).ok();
    let Some(text) = text.filter(|text| !text.contains('\0')) else {
        bail!("the file is no text, but perhaps an archive or an image: {EXPECTED}");
    };
    let is_marked = text.lines().next() == Some(FIRST_LINE);
    if is_marked && !text.lines().any(|line| line == LAST_LINE) {
        bail!(
            "the file is cut off, since its last line is not '{LAST_LINE}': take another backup, or a complete copy of this one"
        );
    }
    let mut documents = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let read = Value::deserialize(document)
            .map_err(|error| anyhow!("it is not valid YAML ({error})"))
            .and_then(read_document)
            .with_context(|| {
                let number = documents.len() + 1;
                format!("document {number} is not a resource of a backup: {EXPECTED}")
            })?;
        documents.extend(read);
    }
    if documents.is_empty() && !is_marked {
        bail!("the file is empty: {EXPECTED}");
    }
    Ok(Backup {
        documents,
        unreadable: Vec::new(),
    })
}

/// Reads a document. `None`: it is empty.
fn read_document(document: Value) -> anyhow::Result<Option<BackupDocument>> {
    if document.is_null() {
        return Ok(None);
    }
    let Some(kind) = document.get("kind").and_then(Value::as_str) else {
        bail!("it has no kind");
    };
    let kind = kind.to_owned();
    Ok(Some(match kind.as_str() {
        "Artifact" => BackupDocument::Artifact(
            serde_json::from_value(document).context("the artifact cannot be read")?,
        ),
        "Fleet" => BackupDocument::Fleet(
            serde_json::from_value(document).context("the identity of the fleet cannot be read")?,
        ),
        "Authority" => BackupDocument::Authority(
            serde_json::from_value(document).context("the authority cannot be read")?,
        ),
        "Enrolment" => BackupDocument::Enrolment(
            serde_json::from_value(document).context("the enrolment of a node cannot be read")?,
        ),
        "ApiKey" => BackupDocument::Key(
            serde_json::from_value(document).context("the API key cannot be read")?,
        ),
        "NodeOperation" => BackupDocument::NodeOperation(
            serde_json::from_value(document).context("the operation of a node cannot be read")?,
        ),
        _ => BackupDocument::Resource(Box::new(Resource::from_json(document)?)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::ModelName;
    use flotilla_core::spec::{EngineKind, Model, ModelSpec};

    fn backup() -> String {
        let document = |name: &str| {
            let spec = ModelSpec {
                engine: EngineKind::Simulated,
                ..ModelSpec::default()
            };
            let model = Model::new(ModelName::new(name).unwrap(), spec);
            BackupDocument::Resource(Box::new(Resource::Model(model)))
        };
        text(&["a", "b", "c"].map(document)).unwrap()
    }

    #[test]
    fn backup_is_read_as_it_was_written_and_also_as_earlier_versions_wrote_it() {
        let text = backup();
        assert_eq!(parse(text.clone().into_bytes()).unwrap().documents.len(), 3);
        let (_, earlier) = text.split_once('\n').unwrap();
        assert_eq!(parse(earlier.into()).unwrap().documents.len(), 3);
        let empty = parse(super::text(&[]).unwrap().into()).unwrap();
        assert!(empty.documents.is_empty());
    }

    #[test]
    fn backup_that_is_cut_off_anywhere_is_refused() {
        let text = backup();
        for end in FIRST_LINE.len()..text.len() - 1 {
            let error = parse(text[..end].into()).unwrap_err().to_string();
            assert!(error.contains("cut off"), "{error}");
        }
    }

    #[test]
    fn other_files_are_refused_with_what_they_should_be() {
        for (content, problem) in [
            (&b""[..], "the file is empty"),
            (b"---\n", "the file is empty"),
            (b"\x1f\x8b\x08\x00", "the file is no text"),
            (b"model.yaml\0\0\0", "the file is no text"),
            (b"a: 1", "document 1 is not a resource of a backup"),
            (b"just words", "document 1 is not a resource of a backup"),
            (b"a: [", "document 1 is not a resource of a backup"),
            (
                b"apiVersion: v1\nkind: Pod",
                "document 1 is not a resource of a backup",
            ),
        ] {
            let error = format!("{:#}", parse(content.to_vec()).unwrap_err());
            assert!(error.contains(problem), "{error}");
            assert!(error.contains(EXPECTED), "{error}");
            assert!(!error.contains("untagged"), "{error}");
        }
    }
}
