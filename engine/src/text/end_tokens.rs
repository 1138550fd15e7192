//! The tokens that end an answer.

use crate::files::gguf_header::GgufHeader;

/// The tokens of a GGUF file's metadata that end an answer, a turn or a message.
const GGUF_NAMES: [&str; 4] = [
    "eos_token_id",
    "eot_token_id",
    "eom_token_id",
    "eod_token_id",
];
/// Tokens that end a turn where a chat template prints them.
const TURN_ENDS: [&str; 6] = [
    "<|im_end|>",
    "<end_of_turn>",
    "<|end_of_text|>",
    "<|end|>",
    "<|eot_id|>",
    "<|end_of_turn|>",
];

/// Returns the tokens that end an answer: those that the engine knows, and those that the GGUF file or the
/// chat template names. A model may end with any of them, whatever its grammar or its chat calls the end.
pub(crate) fn end_tokens(
    engine: &[u32],
    header: Option<&GgufHeader>,
    template: &str,
    token_id: impl Fn(&str) -> Option<u32>,
) -> Vec<u32> {
    let mut tokens = engine.to_vec();
    let named = GGUF_NAMES.iter().filter_map(|name| {
        let token = header?.number(&format!("tokenizer.ggml.{name}"))?;
        u32::try_from(token).ok()
    });
    tokens.extend(named);
    let is_harmony = template.contains("<|channel|>");
    let printed = TURN_ENDS.iter().filter(|name| template.contains(**name));
    // Harmony's `<|end|>` ends a message, after which the answer goes on.
    tokens.extend(
        printed
            .filter(|_| !is_harmony)
            .filter_map(|name| token_id(name)),
    );
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_that_may_end_an_answer_does() {
        let mut header = GgufHeader::default();
        let values = &mut header.values;
        values.insert("tokenizer.ggml.eos_token_id".into(), 2.into());
        values.insert("tokenizer.ggml.eot_token_id".into(), 5.into());
        let ids = |name: &str| (name == "<|im_end|>").then_some(9);
        let ends = |template| end_tokens(&[2, 3], Some(&header), template, ids);
        assert_eq!(ends("{{ '<|im_end|>' }}"), [2, 3, 5, 9]);
        assert_eq!(ends("{{ '<|end|>' }}"), [2, 3, 5]);
        assert_eq!(end_tokens(&[1], None, "<|channel|><|im_end|>", ids), [1]);
    }
}
