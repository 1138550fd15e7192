//! What of a conversation is classified: what users said, the newest first. A turn decides as
//! far as it is sure of itself and leaves the rest to the turn before: "and in euros?" says
//! little, so the question before it speaks; a new question leaves nothing to the old one.

/// What is read of a turn, in bytes: a longer one is read at its two ends, where the question
/// is, and not in the document between them.
const WHOLE: usize = 1_000;
/// What is read at each end of a longer one, in bytes.
const END: usize = 400;
/// Pieces that are looked at. What lies further back has no say.
const PIECES: usize = 8;
/// Each turn back counts this much less.
const FADE: f32 = 0.8;
/// Words that are half a request. More of them help short turns that lean on the one before and
/// hurt short turns that do not: see `benches/classifier.rs`.
const HALF_FULL: f32 = 1.0;
/// A piece's say at least: when none is sure of itself, the newest counts most.
const LEAST_SAY: f32 = 0.02;

/// The pieces of `turns`, the newest first: at most [`PIECES`].
pub(super) fn pieces<'a>(turns: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let halves = |turn: &'a str| {
        if turn.len() <= WHOLE {
            return [Some(turn), None];
        }
        let tail = turn.ceil_char_boundary(turn.len() - END);
        let head = turn.floor_char_boundary(END);
        [Some(&turn[tail..]), Some(&turn[..head])]
    };
    let said = turns.filter(|turn| !turn.trim().is_empty());
    said.flat_map(halves).flatten().take(PIECES)
}

/// How much of a request a piece can be, by its length: "ok" or "in euros" lean on what was said
/// before, however sure their words are.
pub(super) fn fullness(piece: &str) -> f32 {
    let words = piece.split_whitespace().take(50).count() as f32;
    words / (words + HALF_FULL)
}

/// The share of each piece in the decision, given how sure each is, the newest first. Together
/// they are 1.
pub(super) fn shares(confidences: &[f32]) -> Vec<f32> {
    let mut open = 1.0;
    let mut shares: Vec<f32> = confidences
        .iter()
        .map(|&confidence| {
            let share = open * confidence.max(LEAST_SAY);
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
    fn a_sure_turn_decides_alone_and_an_unsure_one_asks_those_before() {
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
    fn long_turns_are_read_at_their_ends_and_long_conversations_at_theirs() {
        let long = format!("first {} last", "ä".repeat(5_000));
        let read: Vec<_> = pieces([long.as_str(), " ", "before"].into_iter()).collect();
        assert_eq!(read.len(), 3);
        assert!(read[0].ends_with("last") && read[1].starts_with("first"));
        assert!(read[0].len() <= END && read[1].len() <= END);
        assert_eq!(read[2], "before");
        assert_eq!(pieces(std::iter::repeat("x")).count(), PIECES);
    }
}
