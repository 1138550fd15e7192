//! Weighs the sentences of a conversation's user turns for classification, the newest first. A sentence decides to the
//! extent of its confidence and leaves the rest to the one before it: "and in euros?" says little, so
//! the question before it decides; a new question leaves nothing to the old one.

/// The longest turn that is read as a whole, in bytes. Of a longer one the two ends are read, where the
/// question is, and not the document between them. Our own choice, like the constants below.
const MAX_WHOLE_BYTES: usize = 1_000;
/// Bytes that are read at each end of a longer turn.
const END_BYTES: usize = 400;
/// The most pieces of a conversation that are read, the newest ones.
const MAX_PIECES: usize = 8;
/// The factor by which each earlier piece weighs less.
const FADE: f32 = 0.8;
/// The number of words at which a piece has half of the full weight. A larger number helps short turns
/// that depend on the turn before and hurts short turns that do not: see `benches/classifier.rs`.
const HALF_WEIGHT_WORDS: f32 = 1.0;
/// The least weight of a piece: if no piece is confident, the newest weighs most.
const MIN_WEIGHT: f32 = 0.02;

/// Splits `turns` into pieces, sentences or lines, the newest first, at most [`MAX_PIECES`]: a greeting or a document
/// decides as little as an earlier turn does.
pub(super) fn pieces<'a>(turns: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let halves = |turn: &'a str| {
        if turn.len() <= MAX_WHOLE_BYTES {
            return [Some(turn), None];
        }
        let tail = turn.ceil_char_boundary(turn.len() - END_BYTES);
        let head = turn.floor_char_boundary(END_BYTES);
        [Some(&turn[tail..]), Some(&turn[..head])]
    };
    let parts = turns.flat_map(halves).flatten();
    parts
        .flat_map(|part| part.rsplit('\n').flat_map(sentences_from_the_end))
        .filter(|sentence| !sentence.trim().is_empty())
        .take(MAX_PIECES)
}

/// The sentences of a line, the last one first. A sentence ends with a full stop, an exclamation mark or a question mark
/// before a space.
fn sentences_from_the_end(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let line = rest?;
        let ends = [". ", "! ", "? "].map(|end| line.trim_end().rfind(end));
        let (before, sentence) = match ends.into_iter().flatten().max() {
            Some(end) => (Some(&line[..=end]), &line[end + 2..]),
            None => (None, line),
        };
        rest = before;
        Some(sentence)
    })
}

/// The weight of a piece by its length, 0 to 1: "ok" or "in euros" depend on the turn before, however
/// confident the classification of their words is.
pub(super) fn length_weight(piece: &str) -> f32 {
    let words = piece.split_whitespace().take(50).count() as f32;
    words / (words + HALF_WEIGHT_WORDS)
}

/// The share of each piece in the decision by its confidence, the newest first. The shares add up
/// to 1.
pub(super) fn shares(confidences: &[f32]) -> Vec<f32> {
    let mut open = 1.0;
    let mut shares: Vec<f32> = confidences
        .iter()
        .map(|&confidence| {
            let share = open * confidence.max(MIN_WEIGHT);
            open *= FADE * (1.0 - confidence).max(0.0);
            share
        })
        .collect();
    let all: f32 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= all);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn confident_turn_decides_alone_and_an_uncertain_one_defers_to_earlier_turns() {
        let sure = shares(&[0.99, 0.99]);
        assert!(sure[0] > 0.98, "{sure:?}");
        let unsure = shares(&[0.05, 0.95]);
        assert!(unsure[1] > 0.9, "{unsure:?}");
        let none = shares(&[0.0, 0.0, 0.0]);
        assert!(none[0] > none[1] && none[1] > none[2], "{none:?}");
        assert_eq!(shares(&[0.3]), [1.0]);
        assert!(shares(&[]).is_empty());
    }

    #[test]
    fn long_turns_are_read_at_both_ends_and_long_conversations_at_the_newest() {
        let long = format!("first {} last", "ä".repeat(5_000));
        let read: Vec<_> = pieces([long.as_str(), " ", "before"].into_iter()).collect();
        assert_eq!(read.len(), 3);
        assert!(read[0].ends_with("last") && read[1].starts_with("first"));
        assert!(read[0].len() <= END_BYTES && read[1].len() <= END_BYTES);
        assert_eq!(read[2], "before");
        assert_eq!(pieces(std::iter::repeat("x")).count(), MAX_PIECES);
    }
}
