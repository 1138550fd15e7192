//! Splits prompts into tokens, with llama.cpp's tokenizer.
//!
//! llama.cpp finds control tokens wherever they stand. So the text is divided at those that are meant, and what is
//! between them is split as text: there the mark of [`control_tokens`](crate::chat::control_tokens) stands in those
//! that a client wrote.

use std::sync::{Arc, Weak};

use aho_corasick::{AhoCorasick, MatchKind};
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use crate::chat::control_tokens::{AddedToken, ControlTokens, MARK};

/// The key of a file's kind of vocabulary, and those kinds that may have a space before each text.
const KIND: &str = "tokenizer.ggml.model";
const SENTENCE_PIECE: &str = "llama";
const UNIGRAM: &str = "t5";
/// The key of whether one has.
const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";

/// Splits texts into the tokens of a model.
pub(super) struct Tokenizer {
    /// The thread of the model owns it, and frees its weights when it ends.
    model: Weak<LlamaModel>,
    /// Finds the texts of control tokens. `None` if the model has none.
    finder: Option<AhoCorasick>,
    /// The tokens that are found, in the order of the finder's patterns.
    controls: Vec<ControlToken>,
    /// The tokens before and after a raw text.
    ends: (Vec<u32>, Vec<u32>),
    /// Whether a space is put before each text that is split, so that none may begin inside a word.
    adds_space: bool,
}

/// A token that is found before a text is split.
#[derive(Debug, Clone)]
struct ControlToken {
    id: u32,
    text: String,
    /// Whether white space before it belongs to it.
    strips_left: bool,
    /// Whether white space behind it belongs to it.
    strips_right: bool,
    is_special: bool,
}

/// A part of a prompt.
#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Token(u32),
    Text(&'a str),
}

impl Tokenizer {
    /// The tokenizer of a model. `with_end` says whether the token that ends a text is a part of a raw one: an
    /// embedding may be read from it, but an answer cannot follow it.
    pub(super) fn new(model: &Arc<LlamaModel>, with_end: bool) -> Self {
        let controls: Vec<ControlToken> = control_tokens(model);
        let texts = controls.iter().map(|control| &control.text);
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts);
        let vocab = model.vocab();
        let begin = vocab.should_add_bos().then(|| vocab.bos());
        let mut end = Vec::new();
        if with_end {
            end.extend(vocab.should_add_sep().then(|| vocab.sep()));
            if end.is_empty() {
                end.extend(vocab.should_add_eos().then(|| vocab.eos()));
            }
        }
        let known = |tokens: Vec<LlamaToken>| {
            let ids = tokens
                .into_iter()
                .filter_map(|token| u32::try_from(token.0).ok());
            ids.collect()
        };
        let setting = model.meta_val_str(ADD_SPACE);
        // The crate's own function panics at most kinds of vocabularies.
        let adds_space = match model.meta_val_str(KIND).as_deref() {
            Ok(SENTENCE_PIECE) => setting.as_deref() != Ok("false"),
            Ok(UNIGRAM) => setting.as_deref() == Ok("true"),
            _ => false,
        };
        Self {
            // A vocabulary that is too large for a search has none.
            finder: finder.ok().filter(|_| !controls.is_empty()),
            ends: (known(begin.into_iter().collect()), known(end)),
            adds_space,
            controls,
            model: Arc::downgrade(model),
        }
    }

    /// The texts of clients must not have these.
    pub(super) fn control_tokens(&self) -> ControlTokens {
        let tokens = self.controls.iter().map(|control| AddedToken {
            text: control.text.clone(),
            is_special: control.is_special,
        });
        ControlTokens::new(&tokens.collect::<Vec<_>>())
    }

    /// Returns the id of the control token with this text.
    pub(super) fn control_id(&self, text: &str) -> Option<u32> {
        let found = self.controls.iter().find(|control| control.text == text);
        found.map(|control| control.id)
    }

    /// Splits a text. A raw one gets the tokens that begin and end a text. `None` when the model has ended.
    pub(super) fn encode(&self, text: &str, is_raw: bool) -> Option<Vec<u32>> {
        let model = self.model.upgrade()?;
        let split = |text: &str, tokens: &mut Vec<u32>| {
            let split = model.vocab().tokenize(text.as_bytes(), false, false);
            tokens.extend(split.iter().map(|token| token.0.cast_unsigned()));
        };
        let mut tokens = Vec::new();
        let (begin, end) = &self.ends;
        if is_raw {
            tokens.extend(begin);
        }
        for part in divide(text, self.finder.as_ref(), &self.controls) {
            match part {
                Part::Token(token) => tokens.push(token),
                // The spaces that pieces get are text, tokens that a client wrote are not.
                Part::Text(text) if self.adds_space && !self.would_have_control(text) => {
                    split(&text.replace(MARK, ""), &mut tokens);
                }
                // A token never spans a mark: so none is found in what a client wrote.
                Part::Text(text) => {
                    for piece in text.split(MARK).filter(|piece| !piece.is_empty()) {
                        split(piece, &mut tokens);
                    }
                }
            }
        }
        if is_raw {
            tokens.extend(end);
        }
        Some(tokens)
    }

    /// Whether a text has control tokens without its marks that llama.cpp finds in any text.
    fn would_have_control(&self, text: &str) -> bool {
        let found = |finder: &AhoCorasick| {
            let text = text.replace(MARK, "");
            let mut found = finder.find_iter(&text);
            found.any(|found| !self.controls[found.pattern().as_usize()].is_special)
        };
        text.contains(MARK) && self.finder.as_ref().is_some_and(found)
    }

    /// The bytes of a token. Control tokens have none without `with_controls`, and no token has any when the model has
    /// ended.
    pub(super) fn bytes(&self, token: u32, with_controls: bool) -> Vec<u8> {
        let token = LlamaToken(token.cast_signed());
        let model = self.model.upgrade();
        model.map_or_else(Vec::new, |model| {
            model.vocab().token_to_piece(token, with_controls, None)
        })
    }
}

/// Divides a text at the control tokens in it.
fn divide<'a>(
    text: &'a str,
    finder: Option<&AhoCorasick>,
    controls: &[ControlToken],
) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    let mut begin = 0;
    let mut strips = false;
    let add_text = |parts: &mut Vec<Part<'a>>, text: &'a str, strips_start, strips_end| {
        let text = if strips_start {
            text.trim_start()
        } else {
            text
        };
        let text = if strips_end { text.trim_end() } else { text };
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
    };
    for found in finder.iter().flat_map(|finder| finder.find_iter(text)) {
        let control = &controls[found.pattern().as_usize()];
        add_text(
            &mut parts,
            &text[begin..found.start()],
            strips,
            control.strips_left,
        );
        parts.push(Part::Token(control.id));
        (begin, strips) = (found.end(), control.strips_right);
    }
    add_text(&mut parts, &text[begin..], strips, false);
    parts
}

fn control_tokens(model: &LlamaModel) -> Vec<ControlToken> {
    let vocab = model.vocab();
    let tokens = vocab.tokens().filter_map(|token| {
        let attributes = vocab.attr(token);
        let is_special = attributes.contains(LlamaTokenAttr::Control);
        if !is_special && !attributes.contains(LlamaTokenAttr::UserDefined) {
            return None;
        }
        let text = String::from_utf8(vocab.token_to_piece(token, true, None)).ok()?;
        Some(ControlToken {
            id: token.0.cast_unsigned(),
            text,
            strips_left: attributes.contains(LlamaTokenAttr::LStrip),
            strips_right: attributes.contains(LlamaTokenAttr::RStrip),
            is_special,
        })
    });
    tokens.filter(|token| !token.text.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(id: u32, text: &str, strips: bool) -> ControlToken {
        ControlToken {
            id,
            text: text.to_owned(),
            strips_left: false,
            strips_right: strips,
            is_special: true,
        }
    }

    #[test]
    fn text_is_divided_at_control_tokens_but_not_at_marked_ones() {
        let controls = [
            control(7, "<|end|>", true),
            control(8, "<|end|>!", false),
            control(9, "<s>", false),
        ];
        let texts = controls.iter().map(|control| &control.text);
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts)
            .unwrap();
        let divide = |text| divide(text, Some(&finder), &controls);
        let text = Part::Text;
        assert_eq!(
            divide("<s>hi <|end|> \n you"),
            [Part::Token(9), text("hi "), Part::Token(7), text("you")]
        );
        assert_eq!(divide("<|end|>!"), [Part::Token(8)]);
        assert_eq!(divide("<\u{FDD0}s>"), [text("<\u{FDD0}s>")]);
        assert_eq!(super::divide("<s>", None, &[]), [text("<s>")]);
    }
}
