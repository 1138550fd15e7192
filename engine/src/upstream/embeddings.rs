//! Embeddings in OpenAI's format.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flotilla_core::generate::{Embeddings, RequestError};
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::bounded_list::BoundedList;
use super::response::UsageField;
use super::{EMBED_BATCH, error};

/// The response to a request for embeddings.
#[derive(Deserialize)]
struct EmbeddingsReply {
    data: Option<BoundedList<EmbeddingItem, EMBED_BATCH>>,
    usage: Option<UsageField>,
    error: Option<Box<RawValue>>,
}

/// The embedding of one input.
#[derive(Deserialize)]
struct EmbeddingItem {
    index: Option<usize>,
    embedding: Option<VectorField>,
}

/// A vector as numbers, or as the base64 of little-endian numbers of four bytes.
struct VectorField(Vec<f32>);

/// Parses a response into the embeddings of `inputs` inputs, in their order.
///
/// # Errors
/// [`RequestError::Upstream`] when there is not one embedding for each input, or they differ in length.
pub(super) fn parse(body: &[u8], inputs: usize) -> Result<Embeddings, RequestError> {
    let reply: EmbeddingsReply = serde_json::from_slice(body).map_err(|e| {
        error::invalid(&format!(
            "to a request for embeddings cannot be parsed: {e}"
        ))
    })?;
    if let Some(failure) = &reply.error {
        return Err(error::failed(failure.get()));
    }
    let items = reply.data.unwrap_or_default().0;
    if items.len() != inputs {
        let count = items.len();
        return Err(error::invalid(&format!(
            "has {count} embeddings for {inputs} inputs"
        )));
    }
    let mut vectors: Vec<Vec<f32>> = vec![Vec::new(); inputs];
    for (position, item) in items.into_iter().enumerate() {
        let index = item.index.unwrap_or(position);
        let slot = vectors.get_mut(index).filter(|slot| slot.is_empty());
        let Some(slot) = slot else {
            let what = format!("numbers an embedding {index} of {inputs}, or two with it");
            return Err(error::invalid(&what));
        };
        *slot = item.embedding.map_or_else(Vec::new, |vector| vector.0);
        if slot.is_empty() || !slot.iter().all(|number| number.is_finite()) {
            return Err(error::invalid("has an embedding without finite numbers"));
        }
    }
    if vectors
        .iter()
        .any(|vector| vector.len() != vectors[0].len())
    {
        return Err(error::invalid("has embeddings of different lengths"));
    }
    let usage = reply.usage.unwrap_or_default();
    Ok(Embeddings {
        vectors,
        prompt_tokens: usage.prompt_tokens.unwrap_or(0),
        energy: None,
    })
}

impl<'de> Deserialize<'de> for VectorField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(VectorVisitor)
    }
}

struct VectorVisitor;

impl<'de> Visitor<'de> for VectorVisitor {
    type Value = VectorField;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array of numbers or base64")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, numbers: A) -> Result<VectorField, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(numbers)).map(VectorField)
    }

    fn visit_str<E: Error>(self, base64: &str) -> Result<VectorField, E> {
        let bytes = STANDARD.decode(base64).map_err(E::custom)?;
        let (numbers, rest) = bytes.as_chunks();
        if !rest.is_empty() {
            return Err(E::custom("base64 of numbers that are not four bytes long"));
        }
        let numbers = numbers.iter().copied().map(f32::from_le_bytes);
        Ok(VectorField(numbers.collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(data: &str) -> Result<Vec<Vec<f32>>, String> {
        let body = format!(r#"{{"data": {data}, "usage": null}}"#);
        let embeddings = parse(body.as_bytes(), 2).map_err(|error| error.to_string())?;
        Ok(embeddings.vectors)
    }

    #[test]
    fn embeddings_are_in_the_order_of_the_inputs() {
        let two = Ok(vec![vec![0.0, 1.0], vec![1.0, 1.0]]);
        for data in [
            r#"[{"index": 1, "embedding": [1, 1]}, {"index": 0, "embedding": [0, 1]}]"#,
            r#"[{"embedding": [0, 1]}, {"index": null, "embedding": [1, 1]}]"#,
            r#"[{"embedding": "AAAAAAAAgD8="}, {"embedding": [1, 1]}]"#,
        ] {
            assert_eq!(vectors(data), two, "{data}");
        }
    }

    #[test]
    fn number_of_embeddings_is_bounded() {
        let many = vec!["{}"; EMBED_BATCH + 1].join(",");
        let error = vectors(&format!("[{many}]")).unwrap_err();
        assert!(error.contains("more than 32 elements"), "{error}");
    }

    #[test]
    fn anything_but_one_embedding_for_each_input_is_refused() {
        for data in [
            r#"[{"embedding": [0, 1]}]"#,
            r#"[{"embedding": [0]}, {"embedding": [0]}, {"embedding": [0]}]"#,
            r#"[{"index": 0, "embedding": [0]}, {"index": 0, "embedding": [0]}]"#,
            r#"[{"index": 0, "embedding": [0]}, {"index": 3000000000, "embedding": [0]}]"#,
            r#"[{"embedding": []}, {"embedding": []}]"#,
            r#"[{"embedding": null}, {"embedding": [1]}]"#,
            r#"[{"embedding": [1]}, {"embedding": [1, 2]}]"#,
            r#"[{"embedding": "x"}, {"embedding": [1]}]"#,
            "null",
            "7",
        ] {
            let error = vectors(data).unwrap_err();
            assert!(error.starts_with("The server's answer"), "{error}");
        }
        let error = parse(br#"{"error": "out of memory"}"#, 1).unwrap_err();
        assert_eq!(error.to_string(), "The server failed: out of memory");
    }
}
