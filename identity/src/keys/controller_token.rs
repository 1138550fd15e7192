//! How the controllers of a fleet identify themselves to each other: a token that each of them can make and check,
//! signed with a secret that all of them read from the store.
//!
//! The secret also signs the sessions of the page; see [`Session`](super::Session).
//!
//! A token is for one request: its method and path are signed with it, and it is accepted for a minute.

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{hmac, rand};

/// The beginning of every token.
const PREFIX: &str = "fltc_";
/// How long a token is accepted, in seconds: the request takes a moment, and the controllers' clocks differ.
const LIFETIME: u64 = 60;
/// Length of the secret, in bytes.
const SECRET_LEN: usize = 32;

/// The secret that the controllers of a fleet share. `Debug` does not show it.
#[derive(Clone)]
pub struct ControllerSecret(hmac::Key);

/// The request that a token is for.
#[derive(Debug, Clone, Copy)]
pub struct TokenUse<'a> {
    /// The HTTP method.
    pub method: &'a str,
    /// The path and the query.
    pub path: &'a str,
}

impl ControllerSecret {
    /// Generates a secret from the system's random numbers, in the form in which it is stored.
    ///
    /// # Errors
    /// When the system has none.
    pub fn generate() -> Result<String, Unspecified> {
        let mut bytes = [0; SECRET_LEN];
        rand::fill(&mut bytes)?;
        Ok(hex::encode(bytes))
    }

    /// Reads a stored secret. `None` if the text is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; SECRET_LEN];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// Makes a token for a request at `now`, in seconds since 1970.
    #[must_use]
    pub fn token(&self, request: TokenUse<'_>, now: u64) -> String {
        let expires = now.saturating_add(LIFETIME);
        let tag = hmac::sign(&self.0, message(request, expires).as_bytes());
        format!("{PREFIX}{expires}_{}", hex::encode(tag.as_ref()))
    }

    /// Whether `text` is a token for this request that is still accepted at `now`.
    #[must_use]
    pub fn verify(&self, text: &str, request: TokenUse<'_>, now: u64) -> bool {
        let parts = text.strip_prefix(PREFIX).and_then(|t| t.split_once('_'));
        let Some((expires, tag)) = parts else {
            return false;
        };
        let (Ok(expires), Ok(tag)) = (expires.parse::<u64>(), hex::decode(tag)) else {
            return false;
        };
        // One from far in the future was not made by this version of a controller with a right clock.
        let is_current = expires > now && expires <= now.saturating_add(2 * LIFETIME);
        is_current && hmac::verify(&self.0, message(request, expires).as_bytes(), &tag).is_ok()
    }

    /// Signs a session, so that its signature is never one of a token.
    pub(super) fn sign_session(&self, session: &str) -> Vec<u8> {
        let tag = hmac::sign(&self.0, session_message(session).as_bytes());
        tag.as_ref().to_vec()
    }

    /// Whether a signature is that of a session.
    pub(super) fn verify_session(&self, session: &str, signature: &[u8]) -> bool {
        hmac::verify(&self.0, session_message(session).as_bytes(), signature).is_ok()
    }
}

impl std::fmt::Debug for ControllerSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ControllerSecret")
    }
}

fn session_message(session: &str) -> String {
    format!("session\n{session}")
}

/// What is signed. Neither a method nor a path has a line break.
fn message(request: TokenUse<'_>, expires: u64) -> String {
    format!(
        "controller-token\n{expires}\n{}\n{}",
        request.method, request.path
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_accepted_for_its_request_and_for_a_minute() {
        let secret = ControllerSecret::parse(&ControllerSecret::generate().unwrap()).unwrap();
        let request = |method, path| TokenUse { method, path };
        let get = request("GET", "/api/v1/x?y=1");
        let token = secret.token(get, 1_000);
        assert!(secret.verify(&token, get, 1_000));
        assert!(secret.verify(&token, get, 1_059));
        assert!(!secret.verify(&token, get, 1_060));
        assert!(!secret.verify(&token, get, 900));
        assert!(!secret.verify(&token, request("DELETE", "/api/v1/x?y=1"), 1_000));
        assert!(!secret.verify(&token, request("GET", "/api/v1/keys"), 1_000));
        let other = ControllerSecret::parse(&ControllerSecret::generate().unwrap()).unwrap();
        assert!(!other.verify(&token, get, 1_000));
        for text in [
            "",
            "fltc_",
            "fltc_9_",
            "fltc_x_00",
            "fltc_99999999999999999999_00",
        ] {
            assert!(!secret.verify(text, get, 1_000), "{text}");
        }
    }

    #[test]
    fn only_a_whole_secret_is_read() {
        assert!(ControllerSecret::parse("").is_none());
        assert!(ControllerSecret::parse("00").is_none());
        assert!(!format!("{:?}", ControllerSecret::parse(&"0".repeat(64))).contains('0'));
    }
}
