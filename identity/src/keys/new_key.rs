//! Creating a key.

use flotilla_core::KeyName;
use flotilla_core::access::AccessScope;
use serde::{Deserialize, Serialize};

use super::record::SecretDigest;
use super::{KeyId, KeyRecord, KeyText, Role};

/// What a new key should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewKey {
    /// The name that people know the key by.
    pub name: KeyName,
    /// What the key may do.
    pub role: Role,
    /// What requests to models may use.
    #[serde(default, skip_serializing_if = "AccessScope::is_unrestricted")]
    pub scope: AccessScope,
    /// From when on the key is not accepted, in seconds since 1970. `None`: it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// Why a key cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The name looks like an id, by which keys are found too.
    #[error("The name '{0}' looks like the id of a key: choose another name.")]
    NameIsId(KeyName),
    /// The scope is for a role that could widen it or that does not use it.
    #[error("A scope restricts keys with the role inference alone, not those with the role {0}.")]
    ScopeOfRole(Role),
    /// A restriction allows nothing.
    #[error("The scope allows no {0}: name at least one.")]
    EmptyScope(&'static str),
    /// The time of expiry has passed.
    #[error("The key would have expired already.")]
    Expired,
    /// The system has no random numbers.
    #[error("The system has no random numbers for a secret.")]
    NoRandomness,
}

impl NewKey {
    /// Generates the key at `now`, in seconds since 1970.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn generate(self, now: u64) -> Result<(KeyText, KeyRecord), KeyError> {
        self.check(now)?;
        let text = KeyText::generate().map_err(|_| KeyError::NoRandomness)?;
        let record = KeyRecord {
            id: text.id().clone(),
            name: self.name,
            role: self.role,
            digest: SecretDigest::of(text.secret()),
            scope: self.scope,
            created: now,
            expires: self.expires,
            other: serde_json::Map::new(),
        };
        Ok((text, record))
    }

    fn check(&self, now: u64) -> Result<(), KeyError> {
        if self.name.as_str().parse::<KeyId>().is_ok() {
            return Err(KeyError::NameIsId(self.name.clone()));
        }
        if self.role != Role::Inference && !self.scope.is_unrestricted() {
            return Err(KeyError::ScopeOfRole(self.role));
        }
        let AccessScope {
            zones,
            models,
            tasks,
        } = &self.scope;
        let counts = [
            ("zones", zones.as_ref().map(|names| names.len())),
            ("models", models.as_ref().map(|names| names.len())),
            ("tasks", tasks.as_ref().map(|names| names.len())),
        ];
        if let Some((kind, _)) = counts.into_iter().find(|(_, count)| *count == Some(0)) {
            return Err(KeyError::EmptyScope(kind));
        }
        if self.expires.is_some_and(|expires| expires <= now) {
            return Err(KeyError::Expired);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_would_not_mean_what_it_says_is_refused() {
        let scope = AccessScope {
            models: Some([flotilla_core::ModelName::new("m").unwrap()].into()),
            ..AccessScope::default()
        };
        let new = |name: &str, role, scope: &AccessScope, expires| NewKey {
            name: KeyName::new(name).unwrap(),
            role,
            scope: scope.clone(),
            expires,
        };
        let all = AccessScope::default();
        let none = AccessScope {
            zones: Some([].into()),
            ..AccessScope::default()
        };
        let error = |key: NewKey| key.generate(10).unwrap_err();
        assert!(
            new("a", Role::Inference, &scope, Some(11))
                .generate(10)
                .is_ok()
        );
        assert!(matches!(
            error(new("0123456789ab", Role::Admin, &all, None)),
            KeyError::NameIsId(_)
        ));
        assert_eq!(
            error(new("a", Role::Operator, &scope, None)),
            KeyError::ScopeOfRole(Role::Operator)
        );
        assert_eq!(
            error(new("a", Role::Inference, &none, None)),
            KeyError::EmptyScope("zones")
        );
        assert_eq!(
            error(new("a", Role::Viewer, &all, Some(10))),
            KeyError::Expired
        );
    }
}
