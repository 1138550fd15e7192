//! Converts texts to sparse vectors: term frequency times inverse document frequency (tf-idf; Salton
//! and Buckley, "Term-weighting approaches in automatic text retrieval", 1988). Words and letters are
//! normalised separately, so that neither outweighs the other.

use std::collections::HashMap;
use std::sync::Arc;

use nohash_hasher::BuildNoHashHasher;

use super::ngrams::{self, NgramKind};

/// A map by the hash of an n-gram, which is not hashed again.
pub(super) type PassThroughHasher<T> = HashMap<u64, T, BuildNoHashHasher<u64>>;

/// A sparse vector: indices in the vocabulary with their values.
pub(super) type SparseVector = Vec<(u32, f32)>;

/// The n-grams that were seen in training.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    indices: PassThroughHasher<u32>,
    /// The n-grams by index.
    ngrams: Vec<(NgramKind, Arc<str>)>,
    /// Inverse document frequency by index.
    idf: Vec<f32>,
    /// The inverse document frequency of an unknown n-gram.
    unseen: f32,
}

/// A reusable buffer for counting the n-grams of a text.
#[derive(Debug, Default)]
pub(super) struct CountBuffer {
    counts: Vec<(u64, NgramKind)>,
}

impl Vocabulary {
    /// The vocabulary of all n-grams of `texts`.
    pub(super) fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        struct NgramCount {
            kind: NgramKind,
            ngram: Arc<str>,
            documents: u32,
            /// The number of the last document that contains it.
            last_document: u32,
        }
        let mut found: PassThroughHasher<NgramCount> = PassThroughHasher::default();
        let mut number = 0_u32;
        for text in texts {
            number += 1;
            ngrams::for_each_ngram(text, |kind, hash, ngram| {
                let seen = found.entry(hash).or_insert_with(|| NgramCount {
                    kind,
                    ngram: ngram.into(),
                    documents: 0,
                    last_document: 0,
                });
                if seen.last_document != number {
                    seen.last_document = number;
                    seen.documents += 1;
                }
            });
        }
        // Smoothed as if one more document contained every n-gram: ln((1 + n) / (1 + df)) + 1.
        let idf = |seen: u32| ((1.0 + number as f32) / (1.0 + seen as f32)).ln() + 1.0;
        let mut found: Vec<_> = found.into_iter().collect();
        // The order of a map varies; the same texts must give the same vocabulary.
        found.sort_unstable_by_key(|(hash, _)| *hash);
        Self {
            idf: found.iter().map(|(_, s)| idf(s.documents)).collect(),
            indices: found.iter().zip(0..).map(|((h, _), at)| (*h, at)).collect(),
            ngrams: found
                .into_iter()
                .map(|(_, seen)| (seen.kind, seen.ngram))
                .collect(),
            unseen: idf(0),
        }
    }

    /// The number of n-grams.
    pub(super) fn len(&self) -> usize {
        self.idf.len()
    }

    /// The n-gram at an index.
    pub(super) fn ngram(&self, index: u32) -> (NgramKind, Arc<str>) {
        let (kind, ngram) = &self.ngrams[index as usize];
        (*kind, ngram.clone())
    }

    /// Writes the vector of `text` to `vector`. Unknown n-grams count for the length before
    /// normalisation, so that a mostly unknown text has a short vector.
    pub(super) fn vector(&self, text: &str, scratch: &mut CountBuffer, vector: &mut SparseVector) {
        vector.clear();
        let mut squares = [0_f32; 2];
        let mut letters_from = 0;
        scratch.count(text, |hash, kind, times| {
            let index = self.indices.get(&hash).copied();
            let idf = index.map_or(self.unseen, |index| self.idf[index as usize]);
            let value = (1.0 + (times as f32).ln()) * idf;
            squares[kind as usize] += value * value;
            if let Some(index) = index {
                vector.push((index, value));
                if kind == NgramKind::Words {
                    letters_from = vector.len();
                }
            }
        });
        let (words, letters) = vector.split_at_mut(letters_from);
        for (half, square) in [words, letters].into_iter().zip(squares) {
            // Both halves together have length one.
            let scale = (2.0 * square).sqrt().recip();
            half.iter_mut().for_each(|(_, value)| *value *= scale);
        }
    }
}

impl CountBuffer {
    /// Calls `visit` once for each n-gram of `text` with its number of occurrences, words before
    /// letters.
    fn count(&mut self, text: &str, mut visit: impl FnMut(u64, NgramKind, u32)) {
        self.counts.clear();
        ngrams::for_each_ngram(text, |kind, hash, _| self.counts.push((hash, kind)));
        self.counts
            .sort_unstable_by_key(|&(hash, kind)| (kind as u8, hash));
        for same in self.counts.chunk_by(|a, b| a == b) {
            let (hash, kind) = same[0];
            visit(hash, kind, same.len() as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(vocabulary: &Vocabulary, text: &str) -> f32 {
        let mut vector = SparseVector::new();
        vocabulary.vector(text, &mut CountBuffer::default(), &mut vector);
        vector.iter().map(|(_, v)| v * v).sum::<f32>().sqrt()
    }

    #[test]
    fn known_text_has_length_one_and_an_unknown_one_less() {
        let vocabulary = Vocabulary::of(["freeze my card", "my flight"].into_iter());
        assert!((length(&vocabulary, "freeze my card") - 1.0).abs() < 1e-5);
        assert!((length(&vocabulary, "Freeze MY card, my card") - 1.0).abs() < 0.2);
        assert!(length(&vocabulary, "zzz qqq") < 0.5);
        assert_eq!(length(&vocabulary, ""), 0.0);
    }
}
