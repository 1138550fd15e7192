//! Quantities with the unit in their type.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Power, in watts.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Watts(pub f32);

/// Energy, in joules.
#[derive(
    Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize, JsonSchema,
)]
#[schemars(inline)]
#[serde(transparent)]
pub struct Joules(pub f32);

impl Watts {
    /// Returns the energy of this power over a time in seconds.
    #[must_use]
    pub fn energy_over(self, seconds: f32) -> Joules {
        Joules(self.0 * seconds)
    }
}

impl std::ops::Add for Joules {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

/// An amount of memory or storage, in bytes.
///
/// Read from a number of bytes (`1048576`) or a text with a unit (`"512MiB"`, `"1.5GiB"`, `"2GB"`,
/// or `"512Mi"` as in Kubernetes). Serialized as a number of bytes.
///
/// ```
/// use flotilla_core::Bytes;
/// assert_eq!("1.5GiB".parse::<Bytes>().unwrap(), Bytes(1_610_612_736));
/// assert_eq!(Bytes(1_610_612_736).to_string(), "1.5 GiB");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

/// The error returned when a text is not an amount of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not an amount of bytes: write a number with B, KiB, MiB, GiB, TiB, KB, MB, GB or TB"
)]
pub struct ParseBytesError(String);

/// Unit suffixes with their factors; the first of each factor is used for printing.
const UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl Bytes {
    /// Returns `self - other`, or zero if that is negative.
    #[must_use]
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl std::ops::Add for Bytes {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self(0), |total, amount| total + amount)
    }
}

impl FromStr for Bytes {
    type Err = ParseBytesError;

    fn from_str(text: &str) -> Result<Self, ParseBytesError> {
        let error = || ParseBytesError(text.to_owned());
        let trimmed = text.trim();
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| Some((trimmed.strip_suffix(unit)?, *factor)))
            .unwrap_or((trimmed, 1));
        let number = number.trim_end();
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(factor).map(Self).ok_or_else(error);
        }
        let fraction: f64 = number.parse().map_err(|_| error())?;
        let bytes = fraction * factor as f64;
        if bytes.is_finite() && (0.0..=u64::MAX as f64).contains(&bytes) {
            Ok(Self(bytes.round() as u64))
        } else {
            Err(error())
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = UNITS[..4]
            .iter()
            .find(|(_, factor)| self.0 >= *factor)
            .unwrap_or(&("B", 1));
        let amount = self.0 as f64 / *factor as f64;
        let digits = usize::from(*factor > 1 && amount < 100.0);
        f.pad(&format!("{amount:.digits$} {unit}"))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;
        impl Visitor<'_> for BytesVisitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an amount of bytes such as 1048576 or \"512MiB\"")
            }
            fn visit_u64<E>(self, bytes: u64) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(BytesVisitor)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    /// Accepts what [`Bytes`] is read from. Amounts of 16 EiB and above pass the schema only.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-unit": "bytes, or as written",
            "description": "A number of bytes, or a text with a unit: `512MiB`, `1.5GiB`, `2GB`, `512Mi`.",
            "anyOf": [
                { "type": "integer", "minimum": 0 },
                {
                    "type": "string",
                    "pattern": r"^\s*\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*([KMGT](iB?|B)|B)?\s*$",
                },
            ],
        })
    }
}

/// A length of time, written as `200ms`, `90s`, `5m` or `1h 30m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub std::time::Duration);

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map(Self).map_err(|_| {
            format!("'{text}' is not a length of time: write 200ms, 30s, 5m or 1h 30m")
        })
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    /// Accepts the grammar of [`humantime::parse_duration`].
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        const UNITS: &str = "nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds?|secs?|s|minutes?|mins?|m\
             |hours?|hrs?|h|days?|d|weeks?|wks?|w|months?|M|years?|yrs?|y";
        json_schema!({
            "x-unit": "as written",
            "description": "A length of time with its unit: `200ms`, `90s`, `5m`, `1h 30m`.",
            "type": "string",
            "pattern": format!(r"^(0|\s*([0-9][0-9\s]*(\.[0-9]+\s*)?({UNITS})\s*)+)$"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_parsed() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("4 KiB", 4096),
            ("512Mi", 512 << 20),
            ("2GB", 2_000_000_000),
            ("0.5GiB", 1 << 29),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn invalid_amounts_are_rejected() {
        for text in ["", "MiB", "-1", "1XB", "NaN", "1e400", "99999999999TiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn json_round_trips(bytes: u64) {
            let json = serde_json::to_string(&Bytes(bytes)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap(), Bytes(bytes));
        }

        #[test]
        fn printed_amount_is_within_six_percent(bytes in 0u64..(1 << 50)) {
            let Bytes(read) = Bytes(bytes).to_string().parse().unwrap();
            prop_assert!((read as f64 - bytes as f64).abs() <= bytes as f64 * 0.06);
        }
    }
}
