//! What a text is made of, as the classifier sees it: its words, pairs of neighbouring words,
//! and the letters within each word, one to five in a row. Words carry the meaning; letters
//! carry it through misspellings, inflections and languages without spaces.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Which n-gram it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NgramKind {
    /// One word or two.
    Words,
    /// Letters within a word.
    Letters,
}

/// Most words in an n-gram of words.
const WORDS: usize = 2;
/// Most letters in an n-gram of letters.
const LETTERS: usize = 5;

/// Stand for the beginning and the end of a text: "how much" first is not "how much" last.
const BEGIN: &str = "^";
const END: &str = "$";

/// Tells every n-gram of `text`, as often as it is in it, with the hash that names it.
pub(super) fn each(text: &str, mut tell: impl FnMut(NgramKind, u64, &str)) {
    let text = text.to_lowercase();
    let inside = |c: char| c.is_alphanumeric() || c == '\'';
    let words = text.split(|c| !inside(c)).filter(|word| !word.is_empty());
    let mut gram = String::new();
    let mut previous = BEGIN;
    let mut bounds = Vec::new();
    for word in words {
        tell(NgramKind::Words, hash(1, word), word);
        pair(&mut gram, previous, word);
        tell(NgramKind::Words, hash(WORDS as u64, &gram), &gram);
        previous = word;

        // A space on both sides tells prefixes and suffixes from what is inside.
        gram.clear();
        gram.push(' ');
        gram.push_str(word);
        gram.push(' ');
        bounds.clear();
        bounds.extend(gram.char_indices().map(|(at, _)| at));
        bounds.push(gram.len());
        for n in 1..=LETTERS {
            for ends in bounds.windows(n + 1) {
                let letters = &gram[ends[0]..ends[n]];
                tell(
                    NgramKind::Letters,
                    hash((WORDS + n) as u64, letters),
                    letters,
                );
            }
        }
    }
    if previous != BEGIN {
        pair(&mut gram, previous, END);
        tell(NgramKind::Words, hash(WORDS as u64, &gram), &gram);
    }
}

fn pair(gram: &mut String, first: &str, second: &str) {
    gram.clear();
    gram.push_str(first);
    gram.push(' ');
    gram.push_str(second);
}

/// Different for the same text as another kind or length of n-gram.
fn hash(seed: u64, gram: &str) -> u64 {
    xxh3_64_with_seed(gram.as_bytes(), seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grams(text: &str, of: NgramKind) -> Vec<String> {
        let mut found = Vec::new();
        each(text, |kind, _, gram| {
            if kind == of {
                found.push(gram.to_owned());
            }
        });
        found
    }

    #[test]
    fn words_and_pairs_of_them_with_the_ends_of_the_text() {
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
    fn letters_stay_within_their_word_and_know_its_ends() {
        let found = grams("ab", NgramKind::Letters);
        let expected = [" ", "a", "b", " ", " a", "ab", "b ", " ab", "ab ", " ab "];
        assert_eq!(found, expected);
        // Letters of more than one byte, and none that has a case.
        assert!(grams("Größe 東京都", NgramKind::Letters).contains(&"東京".to_owned()));
    }

    #[test]
    fn equal_texts_of_different_kinds_are_told_apart() {
        let mut hashes = std::collections::BTreeMap::new();
        each("a b a", |kind, hash, gram| {
            let known = hashes.insert(hash, (kind, gram.to_owned()));
            assert!(known.is_none_or(|known| known == (kind, gram.to_owned())));
        });
    }
}
