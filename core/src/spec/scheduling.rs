//! Where a model may be placed, and how many times.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How many replicas a model has: a number, or `{min, max}` between which they follow load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replicas {
    /// Never fewer. 0 lets a model that nobody asks for leave the fleet's memory.
    pub min: u32,
    /// Never more, at least 1.
    pub max: u32,
}

impl Replicas {
    /// Always `n`.
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    min: u32,
    max: u32,
}

impl Serialize for Replicas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { min, max } = *self;
        if min == max {
            return serializer.serialize_u32(min);
        }
        Range { min, max }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Replicas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "must be a number or {min: N, max: N}")]
        enum Form {
            Fixed(u32),
            Range(Range),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::Fixed(n) => Self::fixed(n),
            Form::Range(Range { min, max }) => Self { min, max },
        })
    }
}

/// What computes a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The node's processor: every node has one.
    Cpu,
    /// A GPU of Nvidia.
    Cuda,
    /// A GPU of Apple.
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

/// Keeps models off a node, unless they tolerate it: `key=value`, or only `key`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    pub key: String,
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

/// Taints that a model does not mind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toleration {
    pub key: String,
    /// Without it, any value of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl Toleration {
    /// Whether it covers `taint`.
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
    fn a_toleration_covers_its_key_and_value() {
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
