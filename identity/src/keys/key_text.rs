//! The text of a key, `flt_ID_SECRET`, and the id in it.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};

/// The beginning of every key, by which scanners of leaked secrets find it.
const PREFIX: &str = "flt_";
/// Length of an id, in characters: 48 bits.
const ID_LEN: usize = 12;
/// Length of a secret, in characters: 256 bits.
const SECRET_LEN: usize = 64;

/// The public part of a key: 12 hexadecimal digits. Records, logs and lists name a key by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(String);

/// The error for a text that is not the id of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the id of a key has {ID_LEN} hexadecimal digits in lower case")]
pub struct KeyIdError;

impl KeyId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let is_id = text.len() == ID_LEN && is_lower_hex(text);
        is_id.then(|| Self(text.to_owned())).ok_or(KeyIdError)
    }
}

impl TryFrom<String> for KeyId {
    type Error = KeyIdError;

    fn try_from(text: String) -> Result<Self, KeyIdError> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A whole key, with its secret. `Debug` shows the id alone.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyText {
    id: KeyId,
    secret: String,
}

impl KeyText {
    /// Generates a key from the system's random numbers.
    ///
    /// # Errors
    /// When the system has none.
    pub fn generate() -> Result<Self, Unspecified> {
        let (mut id, mut secret) = ([0; ID_LEN / 2], [0; SECRET_LEN / 2]);
        rand::fill(&mut id)?;
        rand::fill(&mut secret)?;
        Ok(Self {
            id: KeyId(hex::encode(id)),
            secret: hex::encode(secret),
        })
    }

    /// Reads a key. `None` if the text is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_secret = secret.len() == SECRET_LEN && is_lower_hex(secret);
        is_secret.then_some(())?;
        Some(Self {
            id: id.parse().ok()?,
            secret: secret.to_owned(),
        })
    }

    /// The public part.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The secret part.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// The whole text, with the secret: for the one time that it is shown.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret)
    }
}

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyText")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

fn is_lower_hex(text: &str) -> bool {
    text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_read_as_it_was_written_and_never_shown_by_accident() {
        let key = KeyText::generate().unwrap();
        assert_eq!(KeyText::parse(&key.expose()), Some(key.clone()));
        assert_ne!(KeyText::generate().unwrap(), key);
        assert!(!format!("{key:?}").contains(key.secret()));
    }

    #[test]
    fn nothing_else_is_a_key() {
        let key = KeyText::generate().unwrap().expose();
        for text in [
            "",
            "flt_",
            "sk-abc",
            "flt_a_b",
            &key[1..],
            &key[..key.len() - 1],
            &format!("{key}0"),
            &key.to_uppercase(),
            &format!(" {key}"),
        ] {
            assert_eq!(KeyText::parse(text), None, "{text}");
        }
    }
}
