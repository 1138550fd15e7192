//! Join tokens: the text that an operator carries to a new node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flotilla_core::spec::Sha256Digest;
use flotilla_core::{NodeName, ZoneName};
use serde::{Deserialize, Serialize};

use crate::authority::sha256;

/// What the text of every token begins with.
const PREFIX: &str = "flotilla-join";
/// The length of a token's id.
const ID_LENGTH: usize = 10;

/// A join token: `flotilla-join.FINGERPRINT.ID.SECRET`, with the authority's fingerprint and the secret in base64. The
/// fingerprint lets the node trust the right controller at first contact.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The SHA-256 digest of the authority's certificate.
    pub authority: Sha256Digest,
    /// The id, which is no secret: 10 hexadecimal digits.
    pub id: String,
    secret: [u8; 32],
}

/// The error returned when a text is not a join token. It does not quote the text, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is not a join token: `flotilla token create` prints one, which begins with 'flotilla-join.'"
)]
pub struct JoinTokenError;

/// A join token in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenRecord {
    /// The SHA-256 digest of the token's secret.
    pub secret_sha256: Sha256Digest,
    /// The name of the node that the token is made for. `None`: any name that no other node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// The privacy zones of the nodes that enrol with the token.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub zones: BTreeSet<ZoneName>,
    /// The protected labels of the nodes that enrol with the token.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// When the token was created, in seconds since 1970.
    pub created: u64,
    /// Until when nodes can enrol with it, in seconds since 1970.
    pub expires: u64,
    /// How many nodes can enrol with it.
    pub uses: u32,
    /// How many nodes have enrolled with it.
    #[serde(default)]
    pub used: u32,
}

/// Whether nodes can enrol with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// They can.
    Valid,
    /// Its time is over.
    Expired,
    /// All its uses are used.
    UsedUp,
}

impl JoinToken {
    /// The token with these random bytes, for the fleet of an authority.
    #[must_use]
    pub fn new(authority: Sha256Digest, random_id: [u8; 5], secret: [u8; 32]) -> Self {
        Self {
            authority,
            id: hex::encode(random_id),
            secret,
        }
    }

    /// The secret.
    #[must_use]
    pub fn secret(&self) -> &[u8; 32] {
        &self.secret
    }

    /// Returns the record of a new token.
    #[must_use]
    pub fn record(&self, created: u64, expires: u64, uses: u32) -> JoinTokenRecord {
        JoinTokenRecord {
            secret_sha256: sha256(&self.secret),
            node: None,
            zones: BTreeSet::new(),
            labels: BTreeMap::new(),
            created,
            expires,
            uses,
            used: 0,
        }
    }
}

/// Whether a text can be the id of a token.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == ID_LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl JoinTokenRecord {
    /// Whether `id` can be the id of a token.
    #[must_use]
    pub fn is_id(id: &str) -> bool {
        is_id(id)
    }

    /// Whether nodes can enrol with the token at `now`, in seconds since 1970.
    #[must_use]
    pub fn state(&self, now: u64) -> TokenState {
        if self.used >= self.uses {
            TokenState::UsedUp
        } else if now >= self.expires {
            TokenState::Expired
        } else {
            TokenState::Valid
        }
    }

    /// Whether this is the token's secret.
    pub(super) fn has_secret(&self, secret: &[u8]) -> bool {
        let digest = sha256(secret);
        aws_lc_rs::constant_time::verify_slices_are_equal(&digest.0, &self.secret_sha256.0).is_ok()
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = URL_SAFE_NO_PAD.encode(self.authority.0);
        let secret = URL_SAFE_NO_PAD.encode(self.secret);
        write!(f, "{PREFIX}.{authority}.{}.{secret}", self.id)
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let parts: Vec<_> = text.trim().split('.').collect();
        let [PREFIX, authority, id, secret] = parts[..] else {
            return Err(JoinTokenError);
        };
        let decode = |text: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| JoinTokenError)?;
            <[u8; 32]>::try_from(bytes).map_err(|_| JoinTokenError)
        };
        if !is_id(id) {
            return Err(JoinTokenError);
        }
        Ok(Self {
            authority: Sha256Digest(decode(authority)?),
            id: id.to_owned(),
            secret: decode(secret)?,
        })
    }
}

// The secret must not get into a log.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_its_secret_is_not_logged() {
        let token = JoinToken::new(Sha256Digest([9; 32]), [1, 2, 3, 4, 5], [7; 32]);
        let text = token.to_string();
        assert_eq!(format!("{text}\n").parse::<JoinToken>(), Ok(token.clone()));
        assert_eq!(token.id, "0102030405");
        let secret = URL_SAFE_NO_PAD.encode([7; 32]);
        assert!(!format!("{token:?}").contains(&secret));
        let cut = &text[..text.len() - 1];
        let other_prefix = text.replace("flotilla-join", "k3s");
        for wrong in [
            "",
            "flotilla-join",
            cut,
            &other_prefix,
            &format!("{text}.x"),
        ] {
            let error = wrong.parse::<JoinToken>().unwrap_err();
            assert!(!error.to_string().contains(&secret));
        }
    }

    #[test]
    fn a_token_can_be_used_until_it_expires_or_is_used_up() {
        let token = JoinToken::new(Sha256Digest([9; 32]), [0; 5], [7; 32]);
        let mut record = token.record(100, 200, 2);
        assert!(record.has_secret(&[7; 32]) && !record.has_secret(&[8; 32]));
        assert_eq!(record.state(199), TokenState::Valid);
        assert_eq!(record.state(200), TokenState::Expired);
        record.used = 2;
        assert_eq!(record.state(199), TokenState::UsedUp);
    }
}
