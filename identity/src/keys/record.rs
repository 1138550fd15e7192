//! What the fleet stores of a key.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use flotilla_core::KeyName;
use flotilla_core::access::AccessScope;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{KeyId, Role};

/// The stored part of a key: everything but its secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRecord {
    /// The public part of the key.
    pub id: KeyId,
    /// The name that people know the key by.
    pub name: KeyName,
    /// What the key may do.
    pub role: Role,
    /// The digest of the secret.
    pub digest: SecretDigest,
    /// What requests to models may use.
    #[serde(default, skip_serializing_if = "AccessScope::is_unrestricted")]
    pub scope: AccessScope,
    /// When the key was created, in seconds since 1970.
    pub created: u64,
    /// From when on the key is not accepted, in seconds since 1970. `None`: it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Fields of a later version. They are kept, so that a backup loses nothing.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl KeyRecord {
    /// Whether the key is not accepted any more at `now`, in seconds since 1970.
    #[must_use]
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// The SHA-256 digest of a secret. In JSON: 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretDigest([u8; 32]);

impl SecretDigest {
    /// A digest that no secret has: an unknown key is compared with it.
    pub(super) const NONE: Self = Self([0; 32]);

    /// The digest of a secret.
    pub(super) fn of(secret: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, secret.as_bytes()).as_ref());
        Self(bytes)
    }

    /// Compares in constant time.
    pub(super) fn matches(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl TryFrom<String> for SecretDigest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut bytes = [0; 32];
        let decoded = hex::decode_to_slice(&text, &mut bytes);
        decoded.map_err(|_| "a digest has 64 hexadecimal digits".to_owned())?;
        Ok(Self(bytes))
    }
}

impl From<SecretDigest> for String {
    fn from(digest: SecretDigest) -> Self {
        hex::encode(digest.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_a_later_version_is_kept_and_an_unknown_restriction_refused() {
        let digest = "0".repeat(64);
        let text = format!(
            r#"{{"id":"0123456789ab","name":"n","role":"viewer","digest":"{digest}","created":1,"requestsPerMinute":5}}"#
        );
        let record: KeyRecord = serde_json::from_str(&text).unwrap();
        let written = serde_json::to_value(&record).unwrap();
        assert_eq!(written, serde_json::from_str::<Value>(&text).unwrap());
        let restricted = text.replace(r#""created""#, r#""scope":{"regions":["eu"]},"created""#);
        assert!(serde_json::from_str::<KeyRecord>(&restricted).is_err());
    }
}
