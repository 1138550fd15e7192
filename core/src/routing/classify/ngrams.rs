//! Splits a text into the n-grams that the classifier uses: words, pairs of neighbouring words, and
//! sequences of one to five letters within each word. Words carry the meaning; letters
//! carry it through misspellings, inflections and languages without spaces.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The kind of an n-gram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NgramKind {
    /// One or two words.
    Words,
    /// One to five letters of a word.
    Letters,
}

/// The most words of an n-gram.
const MAX_WORDS: usize = 2;
/// The most letters of an n-gram.
const MAX_LETTERS: usize = 5;

/// Mark the beginning and the end of a text: "how much" at the beginning differs from "how much" at the
/// end.
const BEGIN: &str = "^";
const END: &str = "$";

/// Calls `visit` with every occurrence of an n-gram in `text` and its hash.
pub(super) fn for_each_ngram(text: &str, mut visit: impl FnMut(NgramKind, u64, &str)) {
    let text = text.to_lowercase();
    let inside = |c: char| c.is_alphanumeric() || c == '\'';
    let words = text.split(|c| !inside(c)).filter(|word| !word.is_empty());
    let mut gram = String::new();
    let mut previous = BEGIN;
    let mut bounds = Vec::new();
    for word in words {
        visit(NgramKind::Words, hash(1, word), word);
        pair(&mut gram, previous, word);
        visit(NgramKind::Words, hash(MAX_WORDS as u64, &gram), &gram);
        previous = word;

        // Spaces on both sides distinguish prefixes and suffixes from letters inside a word.
        gram.clear();
        gram.push(' ');
        gram.push_str(word);
        gram.push(' ');
        bounds.clear();
        bounds.extend(gram.char_indices().map(|(at, _)| at));
        bounds.push(gram.len());
        for n in 1..=MAX_LETTERS {
            for ends in bounds.windows(n + 1) {
                let letters = &gram[ends[0]..ends[n]];
                visit(
                    NgramKind::Letters,
                    hash((MAX_WORDS + n) as u64, letters),
                    letters,
                );
            }
        }
    }
    if previous != BEGIN {
        pair(&mut gram, previous, END);
        visit(NgramKind::Words, hash(MAX_WORDS as u64, &gram), &gram);
    }
}

fn pair(gram: &mut String, first: &str, second: &str) {
    gram.clear();
    gram.push_str(first);
    gram.push(' ');
    gram.push_str(second);
}

/// The hash of an n-gram, which also depends on its kind and length.
fn hash(seed: u64, gram: &str) -> u64 {
    xxh3_64_with_seed(gram.as_bytes(), seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grams(text: &str, of: NgramKind) -> Vec<String> {
        let mut found = Vec::new();
        for_each_ngram(text, |kind, _, gram| {
            if kind == of {
                found.push(gram.to_owned());
            }
        });
        found
    }

    #[test]
    fn words_and_pairs_include_the_ends_of_the_text() {
        let found = grams("Freeze, my card!", NgramKind::Words);
        let expected = [
            "freeze",
            "^ freeze",
            "my",
            "freeze my",
            "card",
            "my card",
            "card $",
        ];
        assert_eq!(found, expected);
        for nothing in ["", " \t\n", "?!…"] {
            assert!(grams(nothing, NgramKind::Words).is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn letter_sequences_stay_within_a_word_and_mark_its_ends() {
        let found = grams("ab", NgramKind::Letters);
        let expected = [" ", "a", "b", " ", " a", "ab", "b ", " ab", "ab ", " ab "];
        assert_eq!(found, expected);
        // Letters of several bytes, and letters without case.
        assert!(grams("Größe 東京都", NgramKind::Letters).contains(&"東京".to_owned()));
    }

    #[test]
    fn equal_texts_of_different_kinds_have_different_hashes() {
        let mut hashes = std::collections::BTreeMap::new();
        for_each_ngram("a b a", |kind, hash, gram| {
            let known = hashes.insert(hash, (kind, gram.to_owned()));
            assert!(known.is_none_or(|known| known == (kind, gram.to_owned())));
        });
    }
}
