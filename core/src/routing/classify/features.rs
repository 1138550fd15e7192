//! The features of a text: its n-grams, and its meaning as the mean of the vectors of its words.

use super::vocabulary::{CountBuffer, SparseVector, Vocabulary};
use super::word_vectors::{DIMENSIONS, WORD_VECTORS};

/// The share of words that are whole pieces of the English vocabulary from which on a text has a meaning. Less has one of
/// a hundred English requests (CLINC150), and nine of ten German and Spanish ones, whose pieces mean something else.
const MIN_WHOLE_WORDS: f32 = 0.65;

/// A vector of [`DIMENSIONS`] values.
pub(super) type DenseVector = [f32; DIMENSIONS];

/// The features of a text.
#[derive(Debug, Clone)]
pub(super) struct Features {
    /// The n-grams that the vocabulary has, with length 1 together, less where some are unknown.
    pub(super) ngrams: SparseVector,
    /// The words that have a meaning.
    pub(super) words: Vec<WordFeature>,
    /// The meaning: the sum of the words' vectors, each times its factor. Its length is 1; 0 for a text without words, or
    /// in another language than English.
    pub(super) meaning: DenseVector,
}

/// A piece of a word, with the factor of its vector in the meaning of the text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct WordFeature {
    /// The key of the word that the piece is of, see [`super::example_words`].
    pub(super) word: u64,
    /// The index of the piece.
    pub(super) piece: u32,
    /// The factor.
    pub(super) factor: f32,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            ngrams: SparseVector::new(),
            words: Vec::new(),
            meaning: [0.0; DIMENSIONS],
        }
    }
}

impl Features {
    /// Computes the features of `text`.
    pub(super) fn of(text: &str, vocabulary: &Vocabulary, scratch: &mut CountBuffer) -> Self {
        let mut features = Self::default();
        vocabulary.vector(text, scratch, &mut features.ngrams);
        let vectors = &*WORD_VECTORS;
        let (mut words, mut whole) = (0, 0);
        vectors.for_each_word(text, |written, word, pieces| {
            if written.starts_with(char::is_alphanumeric) {
                words += 1;
                whole += usize::from(pieces.len() == 1);
            }
            for &piece in pieces {
                let factor = 1.0;
                features.words.push(WordFeature {
                    word,
                    piece,
                    factor,
                });
                vectors.add(piece, factor, &mut features.meaning);
            }
        });
        let length = length(&features.meaning);
        if (whole as f32) < MIN_WHOLE_WORDS * words as f32 {
            features.words.clear();
            features.meaning.fill(0.0);
        } else if length > 0.0 {
            features.scale_meaning(length.recip());
        }
        features
    }

    /// Whether nothing of the text is known.
    pub(super) fn is_empty(&self) -> bool {
        self.ngrams.is_empty() && self.words.is_empty()
    }

    /// Multiplies all features by `factor`.
    pub(super) fn scale(&mut self, factor: f32) {
        self.ngrams.iter_mut().for_each(|(_, v)| *v *= factor);
        self.scale_meaning(factor);
    }

    fn scale_meaning(&mut self, factor: f32) {
        self.words.iter_mut().for_each(|w| w.factor *= factor);
        self.meaning.iter_mut().for_each(|value| *value *= factor);
    }

    /// Adds the features of another text.
    pub(super) fn add(&mut self, other: Self) {
        self.ngrams.extend(other.ngrams);
        self.words.extend(other.words);
        for (sum, value) in self.meaning.iter_mut().zip(other.meaning) {
            *sum += value;
        }
    }

    /// Adds up the values of the same n-gram.
    pub(super) fn merge_ngrams(&mut self) {
        self.ngrams.sort_unstable_by_key(|(place, _)| *place);
        self.ngrams.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 += next.1;
            }
            same
        });
    }
}

/// The Euclidean length of a vector.
pub(super) fn length(vector: &[f32]) -> f32 {
    product(vector, vector).sqrt()
}

/// The scalar product of two vectors of equal length, in several sums so that the processor computes them at once.
pub(super) fn product(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 32;
    let mut sums = [0.0_f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| a * b);
    sums.iter().sum::<f32>() + rest.sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(text: &str) -> Features {
        let vocabulary = Vocabulary::of(std::iter::once("freeze my card"));
        Features::of(text, &vocabulary, &mut CountBuffer::default())
    }

    #[test]
    fn meaning_has_length_one_and_is_the_sum_of_its_words() {
        let features = features("please block my lasagna card");
        assert!((length(&features.meaning) - 1.0).abs() < 1e-4);
        let mut sum = [0.0; DIMENSIONS];
        for word in &features.words {
            WORD_VECTORS.add(word.piece, word.factor, &mut sum);
        }
        let difference = sum.iter().zip(features.meaning).map(|(a, b)| (a - b).abs());
        assert!(difference.fold(0.0, f32::max) < 1e-4);
    }

    #[test]
    fn other_languages_and_texts_without_words_have_no_meaning() {
        for text in [
            "sperre bitte meine Karte",
            "bloquea mi tarjeta por favor",
            "",
            "日本",
        ] {
            let features = features(text);
            assert!(features.words.is_empty(), "{text}");
            assert_eq!(length(&features.meaning), 0.0, "{text}");
        }
    }
}
