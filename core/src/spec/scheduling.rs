//! Number of replicas, and the constraints on the nodes that may have one.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The number of replicas of a model. YAML has a number, or `{min, max}`, within which the number
/// follows load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// Smallest number of replicas. With 0, a model without requests is unloaded everywhere after
    /// `keepAlive`, and loaded again by the next request.
    pub min: u32,
    /// Largest number of replicas, at least 1.
    pub max: u32,
}

impl Replicas {
    /// Returns a fixed number of replicas.
    #[must_use]
    pub fn fixed(n: u32) -> Self {
        Self { min: n, max: n }
    }
}

impl Default for Replicas {
    fn default() -> Self {
        Self::fixed(1)
    }
}

impl fmt::Display for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            return self.min.fmt(f);
        }
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// A range within which the number of replicas follows load.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReplicaRange {
    /// Smallest number of replicas, 0 to 100000, at most `max`. With 0, a model without requests is
    /// unloaded everywhere after `keepAlive`, and loaded again by the next request.
    #[schemars(range(max = 100_000))]
    min: u32,
    /// Largest number of replicas, 1 to 100000.
    #[schemars(range(min = 1, max = 100_000))]
    max: u32,
}

impl Serialize for Replicas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { min, max } = *self;
        if min == max {
            return serializer.serialize_u32(min);
        }
        ReplicaRange { min, max }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Replicas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "must be a number or {min: N, max: N}")]
        enum ReplicasForm {
            Fixed(u32),
            Range(ReplicaRange),
        }
        Ok(match ReplicasForm::deserialize(deserializer)? {
            ReplicasForm::Fixed(n) => Self::fixed(n),
            ReplicasForm::Range(ReplicaRange { min, max }) => Self { min, max },
        })
    }
}

impl JsonSchema for Replicas {
    fn schema_name() -> Cow<'static, str> {
        "Replicas".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of replicas, or a range `{min, max}`.",
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": 100_000 },
                generator.subschema_for::<ReplicaRange>(),
            ],
        })
    }
}

/// A kind of processor that computes a model.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The node's CPU. Every node has one.
    Cpu,
    /// An Nvidia GPU, used through CUDA.
    Cuda,
    /// An Apple GPU, used through Metal.
    Metal,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        })
    }
}

/// A property of a node that keeps off the models that do not tolerate it. Written as `key=value`
/// or `key`.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    /// Key of the taint.
    pub key: String,
    /// Value of the taint. Default: empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
}

impl fmt::Display for Taint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if self.value.is_empty() {
            return Ok(());
        }
        write!(f, "={}", self.value)
    }
}

/// A tolerance for taints: a model with it may run on nodes that have a matching taint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Toleration {
    /// Key of the tolerated taints.
    pub key: String,
    /// Value of the tolerated taints. Default: any value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl Toleration {
    /// Returns whether `taint` has this key and, if one is set, this value.
    #[must_use]
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.key == taint.key && self.value.as_ref().is_none_or(|v| *v == taint.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_a_number_or_a_range() {
        let read =
            |yaml: &str| serde_yaml_ng::from_str::<Replicas>(yaml).map_err(|e| e.to_string());
        assert_eq!(read("3"), Ok(Replicas::fixed(3)));
        assert_eq!(read("{min: 0, max: 2}"), Ok(Replicas { min: 0, max: 2 }));
        assert!(read("many").unwrap_err().contains("a number or {min"));
        for replicas in [Replicas::fixed(2), Replicas { min: 0, max: 4 }] {
            let yaml = serde_yaml_ng::to_string(&replicas).unwrap();
            assert_eq!(read(&yaml), Ok(replicas));
        }
    }

    #[test]
    fn toleration_matches_key_and_value() {
        let taint = Taint {
            key: "gpu".into(),
            value: "shared".into(),
        };
        let toleration = |key: &str, value: Option<&str>| Toleration {
            key: key.into(),
            value: value.map(Into::into),
        };
        assert!(toleration("gpu", None).tolerates(&taint));
        assert!(toleration("gpu", Some("shared")).tolerates(&taint));
        assert!(!toleration("gpu", Some("own")).tolerates(&taint));
        assert!(!toleration("other", None).tolerates(&taint));
    }
}
