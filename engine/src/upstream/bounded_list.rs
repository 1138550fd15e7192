//! Lists that a server sends, bounded in length: an element of two bytes can take hundreds in memory.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

/// A list of at most `MAX` elements. A longer one is an error before more of it is held.
pub(super) struct BoundedList<T, const MAX: usize>(pub(super) Vec<T>);

impl<T, const MAX: usize> Default for BoundedList<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> IntoIterator for BoundedList<T, MAX> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for BoundedList<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor(PhantomData))
    }
}

/// The error when a list has more than `max` elements.
pub(super) fn too_long<E: Error>(max: usize) -> E {
    E::custom(format_args!("a list has more than {max} elements"))
}

struct ListVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ListVisitor<T, MAX> {
    type Value = BoundedList<T, MAX>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a list of at most {MAX} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            if list.len() >= MAX {
                return Err(too_long(MAX));
            }
            list.push(element);
        }
        Ok(BoundedList(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_of_a_list_is_bounded() {
        let parse = serde_json::from_str::<BoundedList<u32, 2>>;
        assert_eq!(parse("[1,2]").unwrap().0, [1, 2]);
        let error = parse("[1,2,3]").err().unwrap().to_string();
        assert!(error.contains("more than 2 elements"), "{error}");
        // What follows is not read.
        let error = parse("[1,2,3,{").err().unwrap().to_string();
        assert!(error.contains("more than 2 elements"), "{error}");
    }
}
