//! Fields that are either a text or another JSON value.

use std::fmt;
use std::marker::PhantomData;

use flotilla_core::json::ClientJson;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Reads a text with `text`, or an array or object with `other`. An untagged enum would read the other
/// value without its path in errors, and structs from arrays. `expected` describes both for errors.
pub(crate) fn text_or<'de, D, O, T>(
    deserializer: D,
    expected: &'static str,
    text: fn(String) -> T,
    other: fn(O) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    O: Deserialize<'de>,
{
    deserializer.deserialize_any(TextOrVisitor {
        expected,
        text,
        other,
        other_type: PhantomData,
    })
}

struct TextOrVisitor<O, T> {
    expected: &'static str,
    text: fn(String) -> T,
    other: fn(O) -> T,
    other_type: PhantomData<O>,
}

impl<'de, O: Deserialize<'de>, T> Visitor<'de> for TextOrVisitor<O, T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<T, E> {
        Ok((self.text)(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<T, A::Error> {
        O::deserialize(ClientJson(SeqAccessDeserializer::new(seq))).map(self.other)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        O::deserialize(ClientJson(MapAccessDeserializer::new(map))).map(self.other)
    }
}
