//! From the text that a request presents to who has sent it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use flotilla_core::KeyName;
use flotilla_core::access::AccessScope;

use super::record::SecretDigest;
use super::{KeyId, KeyRecord, KeyText, Role};

/// The keys of a fleet, by id.
pub type KeyMap = BTreeMap<KeyId, Arc<KeyRecord>>;

/// Who has sent a request, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Who it is.
    pub subject: Subject,
    /// What it may do.
    pub role: Role,
    /// What its requests to models may use.
    pub scope: Arc<AccessScope>,
}

/// Who has sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Anybody who reaches a fleet that requires no keys.
    Anonymous,
    /// The holder of a key.
    Key {
        /// The id of the key.
        id: KeyId,
        /// The name of the key.
        name: KeyName,
    },
    /// A user of the controller's machine, by number, over the admin socket.
    SocketUser(u32),
    /// Another controller of the fleet.
    Controller,
}

impl Principal {
    /// A principal with all permissions and without restrictions.
    #[must_use]
    pub fn admin(subject: Subject) -> Self {
        Self {
            subject,
            role: Role::Admin,
            scope: Arc::default(),
        }
    }

    /// A principal without a key, for what needs none. Its scope allows no model, task or zone.
    #[must_use]
    pub fn nobody() -> Self {
        let scope = AccessScope {
            zones: Some(BTreeSet::new()),
            models: Some(BTreeSet::new()),
            tasks: Some(BTreeSet::new()),
        };
        Self {
            subject: Subject::Anonymous,
            role: Role::Inference,
            scope: Arc::new(scope),
        }
    }
}

/// The subject as audit records and logs name it.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("open"),
            Self::Key { id, name } => write!(f, "key {name} ({id})"),
            Self::SocketUser(user) => write!(f, "socket user {user}"),
            Self::Controller => f.write_str("controller"),
        }
    }
}

/// Why a text does not identify anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The request presents nothing.
    #[error(
        "The request has no API key: send one as `Authorization: Bearer KEY`. An admin creates keys with `flotilla key create`."
    )]
    Missing,
    /// The text is no key of the fleet. What of it is wrong is not said.
    #[error(
        "The API key is not one of this fleet: it may be mistyped or revoked. An admin lists the keys with `flotilla key list`."
    )]
    Invalid,
    /// The session of the page has ended, or its key was revoked.
    #[error("The session has ended: log in again.")]
    SessionEnded,
    /// The key has expired.
    #[error("The API key has expired: an admin creates another one with `flotilla key create`.")]
    Expired,
}

/// Finds the holder of the key `text` among `keys`, at `now` in seconds since 1970. The time that it takes does not
/// depend on how much of the key is right, nor on whether its id is known.
///
/// # Errors
/// [`AuthError`].
pub fn authenticate(text: &str, keys: &KeyMap, now: u64) -> Result<Principal, AuthError> {
    let key = KeyText::parse(text).ok_or(AuthError::Invalid)?;
    let record = keys.get(key.id());
    let expected = record.map_or(SecretDigest::NONE, |record| record.digest);
    let matches = SecretDigest::of(key.secret()).matches(&expected);
    let record = record.filter(|_| matches).ok_or(AuthError::Invalid)?;
    if record.is_expired(now) {
        return Err(AuthError::Expired);
    }
    Ok(principal_of(record))
}

/// The holder of a key.
pub(super) fn principal_of(record: &KeyRecord) -> Principal {
    Principal {
        subject: Subject::Key {
            id: record.id.clone(),
            name: record.name.clone(),
        },
        role: record.role,
        scope: Arc::new(record.scope.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::NewKey;

    fn key(expires: Option<u64>) -> (String, KeyMap) {
        let new = NewKey {
            name: KeyName::new("ci").unwrap(),
            role: Role::Viewer,
            scope: AccessScope::default(),
            expires,
        };
        let (text, record) = new.generate(100).unwrap();
        let keys = [(record.id.clone(), Arc::new(record))].into();
        (text.expose(), keys)
    }

    #[test]
    fn the_holder_of_a_key_is_found_until_it_expires() {
        let (text, keys) = key(Some(200));
        let principal = authenticate(&text, &keys, 199).unwrap();
        assert_eq!(principal.role, Role::Viewer);
        assert!(principal.subject.to_string().starts_with("key ci ("));
        assert_eq!(authenticate(&text, &keys, 200), Err(AuthError::Expired));
        assert_eq!(
            authenticate(&text, &KeyMap::new(), 199),
            Err(AuthError::Invalid)
        );
    }

    #[test]
    fn a_wrong_secret_is_invalid_also_when_the_key_has_expired() {
        let (text, keys) = key(Some(200));
        let last = if text.ends_with('0') { '1' } else { '0' };
        let wrong = format!("{}{last}", &text[..text.len() - 1]);
        for now in [100, 300] {
            assert_eq!(authenticate(&wrong, &keys, now), Err(AuthError::Invalid));
        }
        assert_eq!(
            authenticate("sk-other", &keys, 100),
            Err(AuthError::Invalid)
        );
    }

    #[test]
    fn a_record_has_nothing_of_the_secret() {
        let (text, keys) = key(None);
        let secret = text.rsplit('_').next().unwrap();
        let stored = serde_json::to_string(keys.values().next().unwrap().as_ref()).unwrap();
        assert!(!stored.contains(secret));
    }
}
