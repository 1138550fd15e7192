//! Sources and formats of a model's files.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::ValidationErrors;
use crate::ArtifactName;

/// The source of a model's files. YAML has exactly one of `path`, `artifact`, `controllerPath`,
/// `url` (with `sha256`) and `huggingFace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "SourceFields", into = "SourceFields")]
pub enum ModelSource {
    /// A Hugging Face folder or a GGUF file on the nodes, at the same path on every node that may
    /// serve the model.
    Path(PathBuf),
    /// Files uploaded with `flotilla model push`, by the name given there.
    Artifact(ArtifactName),
    /// A folder or a file on the controllers, which send it to the nodes.
    ControllerPath(PathBuf),
    /// A single file that a controller downloads and sends to the nodes.
    Url {
        /// Address of the file, with `https://` or `http://`.
        url: String,
        /// Digest that the downloaded file must have.
        sha256: Sha256Digest,
    },
    /// A Hugging Face repository that a controller downloads and sends to the nodes.
    HuggingFace(HuggingFaceSource),
}

/// A repository on Hugging Face, or on a server with the same API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HuggingFaceSource {
    /// Repository, as `owner/name`.
    #[schemars(regex(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*$"))]
    pub repo: String,
    /// Commit, as 40 hexadecimal digits. Branches and tags are not allowed, because with them two
    /// nodes could get different weights.
    #[schemars(regex(pattern = "^[0-9a-fA-F]{40}$"))]
    pub revision: String,
    /// Paths of the files to download. Default: the files that the format needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// The format of a model's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelFormat {
    /// A Hugging Face folder: `config.json`, `tokenizer.json`, `*.safetensors`.
    Safetensors,
    /// A single GGUF file.
    Gguf,
}

impl ModelSource {
    /// Returns whether the controllers deliver the files to the nodes.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        !matches!(self, Self::Path(_))
    }

    /// Checks the rules that the type cannot express.
    pub(super) fn validate(&self, errors: &mut ValidationErrors) {
        match self {
            Self::Path(path) | Self::ControllerPath(path) => errors.add_if(
                path.as_os_str().is_empty(),
                "spec.source",
                "must not be an empty path",
            ),
            Self::Artifact(_) => {}
            Self::Url { url, .. } => errors.add_if(
                !url.starts_with("https://") && !url.starts_with("http://"),
                "spec.source.url",
                "must begin with https:// or http://",
            ),
            Self::HuggingFace(source) => {
                let is_commit = source.revision.len() == 40
                    && source.revision.bytes().all(|c| c.is_ascii_hexdigit());
                errors.add_if(
                    !is_commit,
                    "spec.source.huggingFace.revision",
                    "must be a commit of 40 hexadecimal digits, so that all nodes get the same files",
                );
                let is_plain = |part: &str| {
                    !part.is_empty()
                        && !part.starts_with('.')
                        && part
                            .bytes()
                            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
                };
                let has_owner = source
                    .repo
                    .split_once('/')
                    .is_some_and(|(owner, name)| is_plain(owner) && is_plain(name));
                errors.add_if(
                    !has_owner,
                    "spec.source.huggingFace.repo",
                    "must be OWNER/NAME",
                );
            }
        }
    }
}

impl fmt::Display for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{} on the node", path.display()),
            Self::Artifact(name) => write!(f, "the artifact '{name}'"),
            Self::ControllerPath(path) => write!(f, "{} on the controller", path.display()),
            Self::Url { url, .. } => f.write_str(url),
            Self::HuggingFace(source) => write!(f, "{}@{}", source.repo, source.revision),
        }
    }
}

/// The source of a model's files: exactly one of `path`, `artifact`, `controllerPath`, `url` (with
/// `sha256`) and `huggingFace`.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(rename = "ModelSource", transform = add_source_rule)]
struct SourceFields {
    /// A Hugging Face folder or a GGUF file on the nodes, at the same path on every node that may
    /// serve the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    path: Option<PathBuf>,
    /// Files uploaded with `flotilla model push`, by the name given there.
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact: Option<ArtifactName>,
    /// A folder or a file on the controllers, which send it to the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    controller_path: Option<PathBuf>,
    /// Address of a single file that a controller downloads and sends to the nodes, with `https://`
    /// or `http://`. Needs `sha256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^https?://"))]
    url: Option<String>,
    /// With `url`: the SHA-256 digest of the file, as 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<Sha256Digest>,
    /// A Hugging Face repository that a controller downloads and sends to the nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    hugging_face: Option<HuggingFaceSource>,
}

/// Adds the rule of `TryFrom<SourceFields>`: exactly one source, and `sha256` only with `url`.
fn add_source_rule(schema: &mut Schema) {
    let without_digest = |field: &str| {
        json!({
            "required": [field],
            "properties": { field: { "not": { "type": "null" } }, "sha256": { "type": "null" } },
        })
    };
    let url = json!({
        "required": ["url", "sha256"],
        "properties": { "url": { "type": "string" }, "sha256": { "type": "string" } },
    });
    let mut rules = ["path", "artifact", "controllerPath", "huggingFace"]
        .map(without_digest)
        .to_vec();
    rules.push(url);
    schema.insert("oneOf".into(), rules.into());
}

impl TryFrom<SourceFields> for ModelSource {
    type Error = &'static str;

    fn try_from(fields: SourceFields) -> Result<Self, Self::Error> {
        match fields {
            SourceFields {
                path: Some(path),
                artifact: None,
                controller_path: None,
                url: None,
                sha256: None,
                hugging_face: None,
            } => Ok(Self::Path(path)),
            SourceFields {
                path: None,
                artifact: Some(name),
                controller_path: None,
                url: None,
                sha256: None,
                hugging_face: None,
            } => Ok(Self::Artifact(name)),
            SourceFields {
                path: None,
                artifact: None,
                controller_path: Some(path),
                url: None,
                sha256: None,
                hugging_face: None,
            } => Ok(Self::ControllerPath(path)),
            SourceFields {
                path: None,
                artifact: None,
                controller_path: None,
                url: Some(url),
                sha256: Some(sha256),
                hugging_face: None,
            } => Ok(Self::Url { url, sha256 }),
            SourceFields {
                path: None,
                artifact: None,
                controller_path: None,
                url: None,
                sha256: None,
                hugging_face: Some(source),
            } => Ok(Self::HuggingFace(source)),
            SourceFields {
                url: Some(_),
                sha256: None,
                ..
            } => Err("url needs sha256 too, the digest of the file"),
            _ => Err(
                "must have exactly one of path, artifact, controllerPath, url (with sha256) and huggingFace",
            ),
        }
    }
}

impl From<ModelSource> for SourceFields {
    fn from(source: ModelSource) -> Self {
        let mut fields = Self::default();
        match source {
            ModelSource::Path(path) => fields.path = Some(path),
            ModelSource::Artifact(name) => fields.artifact = Some(name),
            ModelSource::ControllerPath(path) => fields.controller_path = Some(path),
            ModelSource::Url { url, sha256 } => {
                fields.url = Some(url);
                fields.sha256 = Some(sha256);
            }
            ModelSource::HuggingFace(source) => fields.hugging_face = Some(source),
        }
        fields
    }
}

/// A SHA-256 digest: 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256Digest(pub [u8; 32]);

/// The error returned when a text is not a SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a SHA-256 digest: write 64 hexadecimal digits")]
pub struct ParseDigestError(String);

impl FromStr for Sha256Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| ParseDigestError(text.to_owned()))?;
        Ok(Self(digest))
    }
}

impl JsonSchema for Sha256Digest {
    fn schema_name() -> Cow<'static, str> {
        "Sha256Digest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A SHA-256 digest: 64 hexadecimal digits.",
            "type": "string",
            "pattern": "^[0-9a-fA-F]{64}$",
        })
    }
}

impl TryFrom<String> for Sha256Digest {
    type Error = ParseDigestError;
    fn try_from(text: String) -> Result<Self, ParseDigestError> {
        text.parse()
    }
}

impl From<Sha256Digest> for String {
    fn from(digest: Sha256Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<ModelSource, String> {
        serde_yaml_ng::from_str(yaml).map_err(|e| e.to_string())
    }

    #[test]
    fn each_kind_of_source_round_trips() {
        let digest = "ab".repeat(32);
        for yaml in [
            "path: /m".to_owned(),
            "artifact: a".to_owned(),
            "controllerPath: /m".to_owned(),
            format!("{{url: 'https://x/m.gguf', sha256: {digest}}}"),
            "huggingFace: {repo: a/b, revision: c}".to_owned(),
        ] {
            let source = read(&yaml).unwrap();
            let written = serde_yaml_ng::to_string(&source).unwrap();
            assert_eq!(read(&written).unwrap(), source);
        }
    }

    #[test]
    fn exactly_one_source_is_accepted_and_url_needs_a_digest() {
        for (yaml, part) in [
            ("{path: /m, artifact: a}", "exactly one of"),
            ("{}", "exactly one of"),
            ("url: https://x", "needs sha256"),
            ("{url: https://x, sha256: 12}", "64 hexadecimal digits"),
        ] {
            let error = read(yaml).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn sources_are_validated() {
        let validate = |yaml: &str| {
            let mut errors = ValidationErrors::default();
            read(yaml).unwrap().validate(&mut errors);
            errors.into_result().map_err(|e| e.to_string())
        };
        for (source, part) in [
            ("path: ''", "must not be an empty path"),
            ("huggingFace: {repo: a/b, revision: main}", "a commit of 40"),
            (
                "huggingFace: {repo: ../b, revision: main}",
                "must be OWNER/NAME",
            ),
            (
                &format!("{{url: 'ftp://x', sha256: {}}}", "ab".repeat(32)),
                "must begin with https:// or http://",
            ),
        ] {
            let text = validate(source).unwrap_err();
            assert!(text.contains(part), "{part} not in: {text}");
        }
        assert_eq!(validate("path: /m"), Ok(()));
    }
}
