//! Deserializes JSON of clients.
//!
//! serde's derived structs differ from OpenAI's API in two ways, which [`ClientJson`] mends for every
//! type and at every depth: they accept an array with the values of their fields in order, and their
//! integers do not accept `16.0`, which JSON does not tell apart from `16`. Many languages write every
//! number as the latter.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

/// The integers of larger magnitude are not all represented by an `f64`: 2^53.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// Wraps a deserializer, or a part of one, so that a struct is read from an object only, and an integer
/// also from a number with the fraction 0. What a type reads without saying what it expects, such as the
/// variants of an untagged enum, is passed on as it is.
pub struct ClientJson<T>(pub T);

/// What the wrapped visitor expects.
#[derive(Clone, Copy)]
enum Expected {
    Value,
    Integer,
    Object,
}

struct ClientVisitor<V> {
    inner: V,
    expected: Expected,
}

/// Returns the integer that a number with the fraction 0 is. `None` for other numbers, and for those too
/// large to be exact.
#[must_use]
pub fn exact_integer(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() <= LARGEST_EXACT).then_some(number as i64)
}

/// Methods of `Deserializer` that pass their visitor on with what it expects.
macro_rules! forward {
    ($expected:ident: $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(ClientVisitor { inner: visitor, expected: Expected::$expected })
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for ClientJson<D> {
    type Error = D::Error;

    forward!(Value: deserialize_any deserialize_bool deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_option
        deserialize_unit deserialize_seq deserialize_map deserialize_identifier
        deserialize_ignored_any);
    forward!(Integer: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128);

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let visitor = ClientVisitor {
            inner: visitor,
            expected: Expected::Object,
        };
        self.0.deserialize_struct(name, fields, visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, value(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, value(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(length, value(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0
            .deserialize_tuple_struct(name, length, value(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, value(visitor))
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// Wraps a visitor that expects neither an integer nor an object.
fn value<V>(inner: V) -> ClientVisitor<V> {
    ClientVisitor {
        inner,
        expected: Expected::Value,
    }
}

/// Methods of `Visitor` that pass their value on.
macro_rules! visit {
    ($($method:ident($value:ty))*) => {
        $(fn $method<E: Error>(self, value: $value) -> Result<V::Value, E> {
            self.inner.$method(value)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for ClientVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(formatter)
    }

    visit!(visit_bool(bool) visit_i64(i64) visit_i128(i128) visit_u64(u64) visit_u128(u128)
        visit_char(char) visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
        visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>));

    fn visit_f64<E: Error>(self, number: f64) -> Result<V::Value, E> {
        let is_integer = matches!(self.expected, Expected::Integer);
        match exact_integer(number).filter(|_| is_integer) {
            Some(integer) => match u64::try_from(integer) {
                Ok(integer) => self.inner.visit_u64(integer),
                Err(_) => self.inner.visit_i64(integer),
            },
            None => self.inner.visit_f64(number),
        }
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(ClientJson(deserializer))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(ClientJson(deserializer))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<V::Value, A::Error> {
        match self.expected {
            Expected::Object => Err(A::Error::invalid_type(Unexpected::Seq, &"an object")),
            Expected::Value | Expected::Integer => self.inner.visit_seq(ClientJson(seq)),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(ClientJson(map))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(ClientJson(data))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for ClientJson<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(ClientJson(deserializer))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for ClientJson<A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        self.0.next_element_seed(ClientJson(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for ClientJson<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(ClientJson(seed))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.0.next_value_seed(ClientJson(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for ClientJson<A> {
    type Error = A::Error;
    type Variant = ClientJson<A::Variant>;

    fn variant_seed<T: DeserializeSeed<'de>>(
        self,
        seed: T,
    ) -> Result<(T::Value, Self::Variant), A::Error> {
        let (name, variant) = self.0.variant_seed(ClientJson(seed))?;
        Ok((name, ClientJson(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for ClientJson<A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.0.newtype_variant_seed(ClientJson(seed))
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(length, value(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        let visitor = ClientVisitor {
            inner: visitor,
            expected: Expected::Object,
        };
        self.0.struct_variant(fields, visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::value::RawValue;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Outer {
        count: Option<u8>,
        shift: i64,
        ratio: f64,
        inner: Vec<Inner>,
        kind: Option<Kind>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        size: u32,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Plain,
        Sized { size: u32 },
    }

    fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        T::deserialize(ClientJson(&mut deserializer)).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_without_a_fraction_are_integers_at_every_depth() {
        let json = r#"{"count": 16.0, "shift": -2e2, "ratio": 1, "inner": [{"size": 3.0}],
                       "kind": {"sized": {"size": 4.0}}}"#;
        let outer = Outer {
            count: Some(16),
            shift: -200,
            ratio: 1.0,
            inner: vec![Inner { size: 3 }],
            kind: Some(Kind::Sized { size: 4 }),
        };
        assert_eq!(parse(json), Ok(outer));
        for json in [
            r#"{"count": 16.5}"#,
            r#"{"count": 256.0}"#,
            r#"{"count": -1.0}"#,
            r#"{"shift": 1e300}"#,
            r#"{"count": "16"}"#,
        ] {
            assert!(parse::<Outer>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn structs_are_not_read_from_arrays() {
        for json in [
            "[1, 2, 3.0, [], null]",
            r#"{"inner": [[1]]}"#,
            r#"{"kind": {"sized": [1]}}"#,
        ] {
            let error = parse::<Outer>(json).unwrap_err();
            assert!(error.contains("expected an object"), "{json}: {error}");
        }
        assert_eq!(parse::<Vec<u32>>("[1, 2.0]"), Ok(vec![1, 2]));
        assert_eq!(parse::<(u32, String)>(r#"[1.0, "a"]"#), Ok((1, "a".into())));
        assert_eq!(
            parse::<Outer>(r#"{"kind": "plain"}"#).unwrap().kind,
            Some(Kind::Plain)
        );
    }

    #[test]
    fn raw_values_stay_as_they_are() {
        #[derive(Deserialize)]
        struct Holder {
            raw: Option<Box<RawValue>>,
        }
        let holder: Holder = parse(r#"{"raw": {"a": 1.0, "b":[ ]}}"#).unwrap();
        assert_eq!(holder.raw.unwrap().get(), r#"{"a": 1.0, "b":[ ]}"#);
    }
}
