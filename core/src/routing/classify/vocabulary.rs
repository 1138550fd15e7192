//! Texts as sparse vectors: term frequency times inverse document frequency, words and letters
//! each of length one, so that neither drowns the other.

use std::collections::HashMap;
use std::sync::Arc;

use nohash_hasher::BuildNoHashHasher;

use super::ngrams::{self, NgramKind};

/// Maps n-grams, which are hashed already.
pub(super) type PassThroughHasher<T> = HashMap<u64, T, BuildNoHashHasher<u64>>;

/// A sparse vector: places in the vocabulary with their values.
pub(super) type SparseVector = Vec<(u32, f32)>;

/// The n-grams that were seen in training.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    places: PassThroughHasher<u32>,
    /// The n-grams themselves, by place.
    ngrams: Vec<(NgramKind, Arc<str>)>,
    /// Inverse document frequency by place.
    rarity: Vec<f32>,
    /// That of an n-gram never seen.
    unseen: f32,
}

/// Room for counting the n-grams of a text, to be used again for the next.
#[derive(Debug, Default)]
pub(super) struct CountBuffer {
    counts: Vec<(u64, NgramKind)>,
}

impl Vocabulary {
    /// The n-grams of `texts`.
    pub(super) fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        struct NgramCount {
            kind: NgramKind,
            ngram: Arc<str>,
            documents: u32,
            /// The last one.
            document: u32,
        }
        let mut found: PassThroughHasher<NgramCount> = PassThroughHasher::default();
        let mut number = 0_u32;
        for text in texts {
            number += 1;
            ngrams::each(text, |kind, hash, ngram| {
                let seen = found.entry(hash).or_insert_with(|| NgramCount {
                    kind,
                    ngram: ngram.into(),
                    documents: 0,
                    document: 0,
                });
                if seen.document != number {
                    seen.document = number;
                    seen.documents += 1;
                }
            });
        }
        // Smoothed as if one more document had every n-gram: ln((1 + n) / (1 + df)) + 1.
        let rarity = |seen: u32| ((1.0 + number as f32) / (1.0 + seen as f32)).ln() + 1.0;
        let mut found: Vec<_> = found.into_iter().collect();
        // The same vocabulary for the same texts, whatever order a map has.
        found.sort_unstable_by_key(|(hash, _)| *hash);
        Self {
            rarity: found.iter().map(|(_, s)| rarity(s.documents)).collect(),
            places: found.iter().zip(0..).map(|((h, _), at)| (*h, at)).collect(),
            ngrams: found
                .into_iter()
                .map(|(_, seen)| (seen.kind, seen.ngram))
                .collect(),
            unseen: rarity(0),
        }
    }

    /// How many n-grams it has.
    pub(super) fn len(&self) -> usize {
        self.rarity.len()
    }

    /// The n-gram at a place.
    pub(super) fn ngram(&self, place: u32) -> (NgramKind, Arc<str>) {
        let (kind, ngram) = &self.ngrams[place as usize];
        (*kind, ngram.clone())
    }

    /// Writes `text` as a vector to `vector`. N-grams never seen count for its length, so that
    /// a text that is mostly foreign is short.
    pub(super) fn vector(&self, text: &str, scratch: &mut CountBuffer, vector: &mut SparseVector) {
        vector.clear();
        let mut squares = [0_f32; 2];
        let mut letters_from = 0;
        scratch.count(text, |hash, kind, times| {
            let place = self.places.get(&hash).copied();
            let rarity = place.map_or(self.unseen, |at| self.rarity[at as usize]);
            let value = (1.0 + (times as f32).ln()) * rarity;
            squares[kind as usize] += value * value;
            if let Some(at) = place {
                vector.push((at, value));
                if kind == NgramKind::Words {
                    letters_from = vector.len();
                }
            }
        });
        let (words, letters) = vector.split_at_mut(letters_from);
        for (half, square) in [words, letters].into_iter().zip(squares) {
            // Both together are of length one.
            let scale = (2.0 * square).sqrt().recip();
            half.iter_mut().for_each(|(_, value)| *value *= scale);
        }
    }
}

impl CountBuffer {
    /// Tells each n-gram of `text` once, words before letters, with how often it is in it.
    fn count(&mut self, text: &str, mut tell: impl FnMut(u64, NgramKind, u32)) {
        self.counts.clear();
        ngrams::each(text, |kind, hash, _| self.counts.push((hash, kind)));
        self.counts
            .sort_unstable_by_key(|&(hash, kind)| (kind as u8, hash));
        for same in self.counts.chunk_by(|a, b| a == b) {
            let (hash, kind) = same[0];
            tell(hash, kind, same.len() as u32);
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
    fn a_known_text_has_length_one_and_a_foreign_one_less() {
        let vocabulary = Vocabulary::of(["freeze my card", "my flight"].into_iter());
        assert!((length(&vocabulary, "freeze my card") - 1.0).abs() < 1e-5);
        assert!((length(&vocabulary, "Freeze MY card, my card") - 1.0).abs() < 0.2);
        assert!(length(&vocabulary, "zzz qqq") < 0.5);
        assert_eq!(length(&vocabulary, ""), 0.0);
    }
}
