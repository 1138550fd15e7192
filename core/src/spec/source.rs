//! Where the files of a model come from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ArtifactName;

/// Where the files of a model come from. In YAML exactly one of `path`, `artifact`,
/// `controllerPath`, `url` and `huggingFace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SourceFields", into = "SourceFields")]
pub enum ModelSource {
    /// A Hugging Face folder or a GGUF file, at the same path on every node that may serve
    /// the model.
    Path(PathBuf),
    /// What `flotilla model push` brought.
    Artifact(ArtifactName),
    /// A folder or a file on the controllers.
    ControllerPath(PathBuf),
    /// One file, fetched by a controller.
    Url {
        /// `https://` or `http://`: what comes is checked against the digest either way.
        url: String,
        sha256: Sha256Digest,
    },
    /// A repository of Hugging Face, fetched by a controller.
    HuggingFace(HuggingFaceSource),
}

/// A repository of Hugging Face or of a server that speaks its API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HuggingFaceSource {
    /// `owner/name`.
    pub repo: String,
    /// The commit, 40 hexadecimal digits: a branch would give two nodes different weights.
    pub revision: String,
    /// Only these files. Default: those that the format needs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// How a model's files are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelFormat {
    /// A Hugging Face folder: `config.json`, `tokenizer.json`, `*.safetensors`.
    Safetensors,
    /// One GGUF file.
    Gguf,
}

impl ModelSource {
    /// Whether controllers bring the files to the nodes.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        !matches!(self, Self::Path(_))
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

/// The form of a [`ModelSource`] in YAML.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct SourceFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact: Option<ArtifactName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    controller_path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<Sha256Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hugging_face: Option<HuggingFaceSource>,
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
            } => Err("url needs sha256 beside it: the digest of the file"),
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

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no SHA-256 digest: 64 hexadecimal digits")]
pub struct ParseDigestError(String);

impl FromStr for Sha256Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| ParseDigestError(text.to_owned()))?;
        Ok(Self(digest))
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
    fn one_source_and_a_digest_are_asked_for() {
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
}
