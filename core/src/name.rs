//! Names of the fleet's resources, validated when they are created.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Longest name, in bytes. The same limit as for a label value in Kubernetes, so that every name
/// can be one.
pub const MAX_NAME_LEN: usize = 63;

/// The error returned when a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text is longer than [`MAX_NAME_LEN`]. Holds its length in bytes.
    #[error("must be at most {MAX_NAME_LEN} characters, is {0}")]
    TooLong(usize),
    /// The text has a character that names may not have, or not at this position.
    #[error(
        "must be lower-case letters, digits, '-', '_' and '.', and begin and end with a letter or digit"
    )]
    Characters,
    /// The name has a special meaning in routing.
    #[error("is reserved for routing: choose another name")]
    Reserved,
}

fn check(name: &str) -> Result<(), NameError> {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err(NameError::Empty);
    };
    if bytes.len() > MAX_NAME_LEN {
        return Err(NameError::TooLong(bytes.len()));
    }
    let inner = |c: &u8| alphanumeric(*c) || matches!(c, b'-' | b'_' | b'.');
    if !alphanumeric(*first) || !alphanumeric(*last) || !bytes.iter().all(inner) {
        return Err(NameError::Characters);
    }
    Ok(())
}

/// Returns the JSON Schema of the names that [`check`] accepts, without the reserved ones.
fn name_schema(reserved: &[&str]) -> Schema {
    let mut schema = json_schema!({
        "description": "At most 63 lower-case letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.",
        "type": "string",
        "pattern": "^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$",
    });
    if !reserved.is_empty() {
        schema.insert("not".into(), serde_json::json!({ "enum": reserved }));
    }
    schema
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, reserved: $reserved:expr) => {
        $(#[$doc])*
        ///
        /// Cheap to clone: the text is shared.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates a name.
            ///
            /// # Errors
            /// The rule that `name` breaks.
            pub fn new(name: &str) -> Result<Self, NameError> {
                check(name)?;
                let reserved: &[&str] = $reserved;
                if reserved.contains(&name) {
                    return Err(NameError::Reserved);
                }
                Ok(Self(name.into()))
            }

            /// Returns the name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(&name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().into()
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                name_schema($reserved)
            }
        }
    };
}

name_type!(
    /// The name of a model in the fleet. Clients put it into the `model` field of a request.
    ModelName,
    reserved: &["auto"]
);
name_type!(
    /// The name of a task.
    TaskName,
    reserved: &["auto", "none"]
);
name_type!(
    /// The name of a node in the fleet.
    NodeName,
    reserved: &[]
);
name_type!(
    /// The name of a privacy zone: a group of nodes between which data may flow.
    ZoneName,
    reserved: &[]
);
name_type!(
    /// The name of a set of model files that was pushed to the controllers.
    ArtifactName,
    reserved: &[]
);
name_type!(
    /// The name of an API key, which people know it by.
    KeyName,
    reserved: &[]
);

/// The name of the fleet's router. Always `default`, because a fleet has one router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouterName;

impl RouterName {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        "default"
    }
}

impl TryFrom<String> for RouterName {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        if name == Self.as_str() {
            return Ok(Self);
        }
        Err(format!(
            "must be '{}', as a fleet has one router, is '{name}'",
            Self.as_str()
        ))
    }
}

impl From<RouterName> for String {
    fn from(name: RouterName) -> Self {
        name.as_str().into()
    }
}

impl JsonSchema for RouterName {
    fn schema_name() -> Cow<'static, str> {
        "RouterName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": Self.as_str() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_names_are_accepted() {
        for name in ["a", "support-intent", "qwen3-0.6b", "node-1", "a_b"] {
            assert_eq!(ModelName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn each_broken_rule_has_its_error() {
        assert_eq!(ModelName::new(""), Err(NameError::Empty));
        assert_eq!(ModelName::new(&"a".repeat(64)), Err(NameError::TooLong(64)));
        for name in ["A", "-a", "a-", "a/b", "task:x", "ä", "a b"] {
            assert_eq!(ModelName::new(name), Err(NameError::Characters), "{name}");
        }
        assert_eq!(ModelName::new("auto"), Err(NameError::Reserved));
        assert!(NodeName::new("auto").is_ok());
    }
}
