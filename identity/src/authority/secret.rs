//! The secret that all controllers of a fleet share.

use std::fmt;

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The salt of all keys that are derived from a fleet's secret.
const SALT: &[u8] = b"flotilla fleet secret";
/// The length of a derived key, in bytes.
const KEY_BYTES: usize = 32;

/// The secret of a fleet. Whoever has it and the store can issue certificates.
#[derive(Clone)]
pub struct FleetSecret(Vec<u8>);

/// The error returned when a text cannot be a fleet's secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it has {0} bytes, and a secret has at least {min}", min = FleetSecret::MIN_BYTES)]
pub struct FleetSecretError(usize);

impl FleetSecret {
    /// The least length of a secret, in bytes.
    pub const MIN_BYTES: usize = 32;

    /// Takes the content of a file as the secret, without white space at its end, which editors add.
    ///
    /// # Errors
    /// [`FleetSecretError`] if it is too short.
    pub fn new(content: &[u8]) -> Result<Self, FleetSecretError> {
        let secret = content.trim_ascii_end();
        if secret.len() < Self::MIN_BYTES {
            return Err(FleetSecretError(secret.len()));
        }
        Ok(Self(secret.to_owned()))
    }

    /// Returns the text of the secret with these random bytes.
    #[must_use]
    pub fn text(random: [u8; 32]) -> String {
        format!("{}\n", STANDARD.encode(random))
    }

    /// Derives the key of a purpose with HKDF-SHA256 (RFC 5869).
    #[must_use]
    pub fn derive_key(&self, purpose: &str) -> [u8; KEY_BYTES] {
        let salt = Salt::new(HKDF_SHA256, SALT);
        let info = [purpose.as_bytes()];
        let mut key = [0; KEY_BYTES];
        salt.extract(&self.0)
            .expand(&info, KeyBytes)
            .and_then(|derived| derived.fill(&mut key))
            // HKDF yields up to 255 times the length of the hash, which is 32 bytes.
            .expect("32 bytes can be derived");
        key
    }
}

// The secret must not get into a log.
impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetSecret")
    }
}

/// The length of a derived key.
struct KeyBytes;

impl KeyType for KeyBytes {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_enough_and_white_space_at_its_end_does_not_count() {
        let text = FleetSecret::text([7; 32]);
        let secret = FleetSecret::new(text.as_bytes()).unwrap();
        let trimmed = FleetSecret::new(text.trim().as_bytes()).unwrap();
        assert_eq!(secret.derive_key("a"), trimmed.derive_key("a"));
        assert_ne!(secret.derive_key("a"), secret.derive_key("b"));
        assert_eq!(FleetSecret::new(b"short  \n").unwrap_err().0, 5);
        assert!(!format!("{secret:?}").contains(text.trim()));
    }
}
