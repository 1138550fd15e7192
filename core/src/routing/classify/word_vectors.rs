//! Vectors of words, in which words of similar meaning are close. They are compiled in; `models/train/word_vectors.py`
//! makes them, and `core/data/README.md` says from what. The vector of a text is the mean of those of its word
//! pieces, so that computing it takes microseconds and no model.

use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::vocabulary::PassThroughHasher;

/// The number of values of a vector.
pub(super) const DIMENSIONS: usize = 256;

/// A vector of length 127 with small values.
pub(super) type QuantizedVector = [i8; DIMENSIONS];

/// The file: the magic bytes, the numbers of pieces, dimensions and topics (`u32`), a scale for each piece (`f32`), the
/// values of each piece (`i8`, to be multiplied by its scale), those of each topic (`i8`), and the pieces (a byte of length,
/// then UTF-8). Numbers are little-endian.
static FILE: &[u8] = include_bytes!("../../../data/word_vectors.bin");
const MAGIC: &[u8] = b"FLWV0002";

/// A continuing piece of a word begins with this in the vocabulary.
const CONTINUATION: &str = "##";
/// Words with more bytes have no meaning, as with BERT's tokenizer.
const MAX_WORD_BYTES: usize = 100;
/// Words of more pieces have no meaning: they are rather codes than words.
const MAX_PIECES: usize = 16;

/// The vectors of all word pieces.
#[derive(Debug)]
pub(super) struct WordVectors {
    indices: PassThroughHasher<u32>,
    scales: Vec<f32>,
    values: &'static [u8],
    topics: Vec<QuantizedVector>,
    longest_piece: usize,
}

/// The vectors that are compiled in.
pub(super) static WORD_VECTORS: LazyLock<WordVectors> =
    LazyLock::new(|| WordVectors::parse(FILE).expect("the file that is compiled in is valid"));

impl WordVectors {
    /// Returns `None` if `file` does not have the format that [`FILE`] describes.
    fn parse(file: &'static [u8]) -> Option<Self> {
        let rest = file.strip_prefix(MAGIC)?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let (dimensions, rest) = rest.split_first_chunk::<4>()?;
        let count = u32::from_le_bytes(*count) as usize;
        if u32::from_le_bytes(*dimensions) as usize != DIMENSIONS {
            return None;
        }
        let (topics, rest) = rest.split_first_chunk::<4>()?;
        let topics = u32::from_le_bytes(*topics) as usize;
        let (scales, rest) = rest.split_at_checked(count * 4)?;
        let (values, rest) = rest.split_at_checked(count * DIMENSIONS)?;
        let (topics, mut rest) = rest.split_at_checked(topics * DIMENSIONS)?;
        let (mut indices, mut longest_piece) = (PassThroughHasher::default(), 0);
        for index in 0..count as u32 {
            let (length, after) = rest.split_first()?;
            let (piece, after) = after.split_at_checked(usize::from(*length))?;
            rest = after;
            let piece = std::str::from_utf8(piece).ok()?;
            let (text, continues) = match piece.strip_prefix(CONTINUATION) {
                Some(text) if !text.is_empty() => (text, true),
                _ => (piece, false),
            };
            longest_piece = longest_piece.max(text.len());
            indices.insert(hash(text, continues), index);
        }
        let (scales, _) = scales.as_chunks::<4>();
        Some(Self {
            indices,
            scales: scales.iter().copied().map(f32::from_le_bytes).collect(),
            values,
            topics: topics
                .as_chunks::<DIMENSIONS>()
                .0
                .iter()
                .map(|topic| topic.map(u8::cast_signed))
                .collect(),
            longest_piece,
        })
    }

    /// The meanings of general topics: the centres of clusters of the texts that the vectors were made from.
    pub(super) fn topics(&self) -> &[QuantizedVector] {
        &self.topics
    }

    /// Adds the vector of `piece` times `factor` to `sum`.
    pub(super) fn add(&self, piece: u32, factor: f32, sum: &mut [f32; DIMENSIONS]) {
        let factor = factor * self.scales[piece as usize];
        for (sum, value) in sum.iter_mut().zip(self.row(piece)) {
            *sum += factor * f32::from(value.cast_signed());
        }
    }

    fn row(&self, piece: u32) -> &'static [u8] {
        &self.values[piece as usize * DIMENSIONS..][..DIMENSIONS]
    }

    /// Calls `visit` with each word of `text`, its key and the indices of its pieces, by the rules of BERT's tokenizer for
    /// lower-case English: words are divided at white space, and characters that are neither letters nor digits are
    /// words of their own. Words with a part that the vocabulary lacks are left out. Equal pieces have equal keys.
    pub(super) fn for_each_word(&self, text: &str, mut visit: impl FnMut(&str, u64, &[u32])) {
        let text = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            let bare = text.nfd().filter(|c| !is_combining_mark(*c));
            bare.collect::<String>().to_lowercase()
        };
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            let end = if first.is_alphanumeric() {
                let after = rest.find(|c: char| !c.is_alphanumeric());
                after.unwrap_or(rest.len())
            } else {
                first.len_utf8()
            };
            let (word, after) = rest.split_at(end);
            rest = after;
            if !first.is_whitespace() && word.len() <= MAX_WORD_BYTES {
                self.pieces_of_word(word, &mut visit);
            }
        }
    }

    /// Visits a word with its pieces, each the longest that the vocabulary has (Wu et al., "Google's Neural Machine
    /// Translation System", 2016, section 4.1).
    fn pieces_of_word(&self, word: &str, visit: &mut impl FnMut(&str, u64, &[u32])) {
        // Nearly all words are a piece or two.
        let mut pieces = [0_u32; MAX_PIECES];
        let (mut found, mut start, mut key) = (0, 0, 0);
        while start < word.len() {
            let mut end = word.floor_char_boundary(start + self.longest_piece);
            let piece = loop {
                if end <= start || found == pieces.len() {
                    return;
                }
                if let Some(piece) = self.indices.get(&hash(&word[start..end], start > 0)) {
                    break *piece;
                }
                end = word.floor_char_boundary(end - 1);
            };
            pieces[found] = piece;
            key = xxh3_64_with_seed(&piece.to_le_bytes(), key);
            found += 1;
            start = end;
        }
        visit(word, key, &pieces[..found]);
    }
}

fn hash(text: &str, continues: bool) -> u64 {
    xxh3_64_with_seed(text.as_bytes(), u64::from(continues))
}

#[cfg(test)]
mod tests {
    use super::super::nearest::{product, quantized};
    use super::*;

    fn pieces(text: &str) -> Vec<(String, usize)> {
        let mut words = Vec::new();
        WORD_VECTORS.for_each_word(text, |word, _, pieces| {
            words.push((word.to_owned(), pieces.len()));
        });
        words
    }

    fn similarity(one: &str, other: &str) -> i32 {
        let [one, other] = [one, other].map(|text| {
            let mut vector = [0.0; DIMENSIONS];
            WORD_VECTORS.for_each_word(text, |_, _, pieces| {
                for piece in pieces {
                    WORD_VECTORS.add(*piece, 1.0, &mut vector);
                }
            });
            quantized(&vector).unwrap()
        });
        product(&one, &other)
    }

    #[test]
    fn words_are_divided_as_berts_tokenizer_does() {
        let word = |word: &str, pieces| (word.to_owned(), pieces);
        assert_eq!(
            pieces("Freeze my card, NOW!"),
            [
                word("freeze", 1),
                word("my", 1),
                word("card", 1),
                word(",", 1),
                word("now", 1),
                word("!", 1)
            ]
        );
        // Accents do not count; a longer word has several pieces.
        assert_eq!(pieces("café"), [word("cafe", 1)]);
        assert_eq!(pieces("lasagna"), [word("lasagna", 3)]);
        for nothing in ["", " \n", "\u{1F9FF}", &"x".repeat(MAX_WORD_BYTES + 1)] {
            assert!(pieces(nothing).is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn equal_words_have_equal_keys() {
        let keys = |text: &str| {
            let mut keys = Vec::new();
            WORD_VECTORS.for_each_word(text, |_, key, _| keys.push(key));
            keys
        };
        let found = keys("card Card lasagna cards");
        assert_eq!(found[0], found[1]);
        assert!(found[0] != found[2] && found[0] != found[3]);
    }

    #[test]
    fn similar_words_are_near_each_other() {
        for (near, far) in [
            (["car", "vehicle"], ["car", "banana"]),
            (
                ["freeze my account", "block my card"],
                ["freeze my account", "recipe for a cake"],
            ),
        ] {
            assert!(
                similarity(near[0], near[1]) > similarity(far[0], far[1]),
                "{near:?}"
            );
        }
    }
}
