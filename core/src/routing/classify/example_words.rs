//! The words of the examples. An explanation names a word of a request by the word of the examples that is nearest in
//! meaning: that says why the word counted, and reveals nothing else of the request.

use std::collections::HashMap;
use std::sync::Arc;

use super::features::DenseVector;
use super::nearest::{product, quantized};
use super::vocabulary::PassThroughHasher;
use super::word_vectors::{DIMENSIONS, QuantizedVector, WORD_VECTORS};

/// The most words that others are compared with, the most frequent ones. Our own choice: it bounds the time
/// that finding the nearest takes.
const MAX_COMPARED: usize = 256;

/// The words of the examples.
#[derive(Debug, Default)]
pub(super) struct ExampleWords {
    /// All words by their key, see [`super::word_vectors::WordVectors::for_each_word`].
    by_key: PassThroughHasher<Arc<str>>,
    compared: Vec<(QuantizedVector, Arc<str>)>,
}

impl ExampleWords {
    /// The words of `texts`.
    pub(super) fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut words = Self::default();
        let mut counts: HashMap<u64, (Vec<u32>, u32)> = HashMap::new();
        for text in texts {
            WORD_VECTORS.for_each_word(text, |word, key, pieces| {
                if word.starts_with(char::is_alphanumeric) {
                    words.by_key.entry(key).or_insert_with(|| word.into());
                    let counted = counts.entry(key);
                    counted.or_insert_with(|| (pieces.to_vec(), 0)).1 += 1;
                }
            });
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_unstable_by_key(|(key, (_, count))| (std::cmp::Reverse(*count), *key));
        for (key, (pieces, _)) in counts.into_iter().take(MAX_COMPARED) {
            if let Some(vector) = word_vector(&pieces) {
                words.compared.push((vector, words.by_key[&key].clone()));
            }
        }
        words
    }

    /// The word with this key, or else the frequent word whose vector is nearest to `vector`.
    pub(super) fn nearest(&self, key: u64, vector: &DenseVector) -> Option<Arc<str>> {
        if let Some(word) = self.by_key.get(&key) {
            return Some(word.clone());
        }
        let vector = quantized(vector)?;
        let compared = self.compared.iter();
        let nearest = compared.max_by_key(|(other, _)| product(other, &vector));
        nearest.map(|(_, text)| text.clone())
    }
}

fn word_vector(pieces: &[u32]) -> Option<QuantizedVector> {
    let mut vector = [0.0; DIMENSIONS];
    for piece in pieces {
        WORD_VECTORS.add(*piece, 1.0, &mut vector);
    }
    quantized(&vector)
}
