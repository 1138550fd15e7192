//! Sessions of the page: what a browser presents in place of a key.
//!
//! A session is text, signed with the secret that the controllers share, over the id of the key, the end of the session
//! and the key's digest. Nothing is stored: every controller checks it, and it ends with its key. The key's digest
//! alone, which backups have, makes no session.

use std::sync::Arc;

use super::authenticate::principal_of;
use super::{ControllerSecret, KeyId, KeyMap, KeyRecord, Principal};

/// The longest time of a session, in seconds: a working day.
const MAX_SECONDS: u64 = 12 * 3_600;

/// A session that was just opened.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// What the browser presents: letters, digits and dots.
    pub text: String,
    /// How long it is accepted, in seconds.
    pub seconds: u64,
}

impl Session {
    /// Opens a session of the holder of a key at `now`, in seconds since 1970. It ends no later than the key.
    #[must_use]
    pub fn open(record: &KeyRecord, secret: &ControllerSecret, now: u64) -> Self {
        let last = record.expires.unwrap_or(u64::MAX);
        let expires = now.saturating_add(MAX_SECONDS).min(last);
        let signature = secret.sign_session(&message(record, expires));
        Self {
            text: format!("{}.{expires}.{}", record.id, hex::encode(signature)),
            seconds: expires.saturating_sub(now),
        }
    }

    /// Returns the holder of the key that a session was opened with, while both are accepted.
    #[must_use]
    pub fn verify(
        text: &str,
        keys: &KeyMap,
        secret: &ControllerSecret,
        now: u64,
    ) -> Option<Principal> {
        let mut parts = text.splitn(3, '.');
        let id: KeyId = parts.next()?.parse().ok()?;
        let expires: u64 = parts.next()?.parse().ok()?;
        let signature = hex::decode(parts.next()?).ok()?;
        let record: &Arc<KeyRecord> = keys.get(&id)?;
        let is_current = expires > now && !record.is_expired(now);
        let is_signed = secret.verify_session(&message(record, expires), &signature);
        (is_current && is_signed).then(|| principal_of(record))
    }
}

/// What is signed.
fn message(record: &KeyRecord, expires: u64) -> String {
    let digest = String::from(record.digest);
    format!("{}\n{expires}\n{digest}", record.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{NewKey, Role};
    use flotilla_core::KeyName;
    use flotilla_core::access::AccessScope;

    fn record(expires: Option<u64>) -> KeyRecord {
        let new = NewKey {
            name: KeyName::new("a").unwrap(),
            role: Role::Viewer,
            scope: AccessScope::default(),
            expires,
        };
        new.generate(100).unwrap().1
    }

    fn secret() -> ControllerSecret {
        ControllerSecret::parse(&ControllerSecret::generate().unwrap()).unwrap()
    }

    #[test]
    fn a_session_ends_with_its_time_its_key_and_its_fleet() {
        let (record, secret, other) = (record(None), secret(), secret());
        let session = Session::open(&record, &secret, 1_000);
        let keys: KeyMap = [(record.id.clone(), Arc::new(record))].into();
        let verify = |text: &str, keys: &KeyMap, now| Session::verify(text, keys, &secret, now);
        let end = 1_000 + session.seconds;
        assert_eq!(
            verify(&session.text, &keys, end - 1).unwrap().role,
            Role::Viewer
        );
        assert!(verify(&session.text, &keys, end).is_none());
        assert!(verify(&session.text, &KeyMap::new(), 1_000).is_none());
        assert!(Session::verify(&session.text, &keys, &other, 1_000).is_none());
        let longer = session
            .text
            .replace(&end.to_string(), &(end + 1).to_string());
        assert!(verify(&longer, &keys, 1_000).is_none());
        for text in ["", ".", "..", "a.b.c", &session.text[1..]] {
            assert!(verify(text, &keys, 1_000).is_none(), "{text}");
        }
    }

    #[test]
    fn a_session_is_no_longer_than_its_key() {
        assert_eq!(
            Session::open(&record(Some(1_060)), &secret(), 1_000).seconds,
            60
        );
    }
}
