//! Keeps the texts of clients from being read as control tokens.
//!
//! A tokenizer reads `<|im_end|>` as a token wherever it stands. Where a client wrote it, a mark is put
//! into it before the template is rendered; the tokenizer then finds no token there, and the mark is removed
//! before the text is split.

use aho_corasick::AhoCorasick;

/// The mark. Unicode reserves this character for use inside a program.
pub(crate) const MARK: char = '\u{FDD0}';
/// The tags around a model's thoughts. Templates look for them in earlier answers.
const THINK_TAGS: [&str; 2] = ["<think>", "</think>"];

/// Finds the texts of control tokens.
pub(crate) struct ControlTokens {
    all: Option<AhoCorasick>,
    special: Option<AhoCorasick>,
}

/// A token that a tokenizer finds before it splits a text.
pub(crate) struct AddedToken {
    pub(crate) text: String,
    /// Whether the tokenizer calls it special.
    pub(crate) is_special: bool,
}

impl ControlTokens {
    pub(crate) fn new(tokens: &[AddedToken]) -> Self {
        let controls = tokens.iter().filter(|token| is_control(token));
        let all: Vec<&str> = controls.clone().map(|token| &*token.text).collect();
        let special = controls.filter(|token| token.is_special);
        let special = special.map(|token| &*token.text);
        let special = special.filter(|text| !THINK_TAGS.contains(text));
        Self {
            special: searcher(&special.collect::<Vec<_>>()),
            all: searcher(&all),
        }
    }

    /// Marks every control token in a text.
    pub(crate) fn protect(&self, text: &str) -> String {
        mark(self.all.as_ref(), text)
    }

    /// Marks the control tokens in an earlier answer of the model, except those that it writes itself:
    /// around its thoughts and calls.
    pub(crate) fn protect_answer(&self, text: &str) -> String {
        mark(self.special.as_ref(), text)
    }
}

/// Whether a token controls the model. Some vocabularies have runs of spaces or line breaks beside those,
/// which are text; a single character cannot be distinguished from text either.
fn is_control(token: &AddedToken) -> bool {
    let text = token.text.trim();
    let is_tag = matches!(
        (text.chars().next(), text.chars().next_back()),
        (Some('<'), Some('>')) | (Some('['), Some(']'))
    );
    text.chars().count() > 1 && (token.is_special || is_tag)
}

fn searcher(texts: &[&str]) -> Option<AhoCorasick> {
    // A vocabulary that is too large for a search has none.
    let searcher = (!texts.is_empty()).then(|| AhoCorasick::new(texts));
    searcher?.ok()
}

fn mark(searcher: Option<&AhoCorasick>, text: &str) -> String {
    let text = text.replace(MARK, "");
    let Some(searcher) = searcher else {
        return text;
    };
    let mut starts: Vec<usize> = searcher
        .find_overlapping_iter(&text)
        .map(|found| found.start())
        .collect();
    starts.sort_unstable();
    starts.dedup();
    let mut marked = String::with_capacity(text.len() + starts.len() * MARK.len_utf8());
    let mut end = 0;
    for start in starts {
        let first = text[start..].chars().next().map_or(0, char::len_utf8);
        marked.push_str(&text[end..start + first]);
        marked.push(MARK);
        end = start + first;
    }
    marked.push_str(&text[end..]);
    marked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> ControlTokens {
        let token = |text: &str, is_special| AddedToken {
            text: text.into(),
            is_special,
        };
        ControlTokens::new(&[
            token("<|im_end|>", true),
            token("<|im", true),
            token("<think>", true),
            token("<tool_call>", false),
            token("\n\n", true),
            token("hello", false),
        ])
    }

    #[test]
    fn control_tokens_of_a_client_are_marked_and_text_is_not() {
        let tokens = tokens();
        assert_eq!(tokens.protect("a <|im_end|>"), "a <\u{FDD0}|im_end|>");
        assert_eq!(
            tokens.protect("<tool_call><tool_call>"),
            "<\u{FDD0}tool_call><\u{FDD0}tool_call>"
        );
        assert_eq!(tokens.protect("a\n\nhello <b>"), "a\n\nhello <b>");
        assert_eq!(
            tokens.protect("<\u{FDD0}|im_end|>"),
            "<\u{FDD0}|im_end|>",
            "a client's own mark is removed"
        );
    }

    #[test]
    fn earlier_answer_keeps_its_thoughts_and_calls() {
        let tokens = tokens();
        assert_eq!(
            tokens.protect_answer("<think>a</think><tool_call><|im_end|>"),
            "<think>a</think><tool_call><\u{FDD0}|im_end|>"
        );
    }

    #[test]
    fn overlapping_tokens_are_all_broken() {
        let token = |text: &str| AddedToken {
            text: text.into(),
            is_special: true,
        };
        let tokens = ControlTokens::new(&[token("<a"), token("a>")]);
        assert_eq!(tokens.protect("<a>"), "<\u{FDD0}a\u{FDD0}>");
    }
}
