//! Divides the time of a step among the sequences that it computed.

use std::time::Duration;

use super::step_plan::PendingTokens;

/// The most of a step with answers that counts as reading prompts: what is left is at least the reading of the weights,
/// which the answers wait for.
const MOST_READING: f64 = 0.95;

/// Returns the part of a step's `time` that each sequence took. `plan` is how many tokens of each it computed, and
/// `reading_speed` how many tokens of a prompt are read in a second, if that is known.
///
/// Prompts take what their tokens take at that speed, and answers, each of which is one token, take equal parts of the rest.
pub(super) fn divide_step(
    time: Duration,
    sequences: &[PendingTokens],
    plan: &[usize],
    reading_speed: Option<f64>,
) -> Vec<Duration> {
    let sum = |is_reading: bool| -> usize {
        let tokens = sequences.iter().zip(plan);
        let tokens = tokens.filter(|(sequence, _)| (sequence.unread > 0) == is_reading);
        tokens.map(|(_, tokens)| tokens).sum()
    };
    let (read, written) = (sum(true), sum(false));
    let seconds = time.as_secs_f64();
    let reading = match reading_speed {
        _ if written == 0 => seconds,
        _ if read == 0 => 0.0,
        Some(speed) => (read as f64 / speed).min(MOST_READING * seconds),
        None => seconds * read as f64 / (read + written) as f64,
    };
    let part = |sequence: &PendingTokens, tokens: usize| match sequence.unread {
        0 => (seconds - reading) * tokens as f64 / written.max(1) as f64,
        _ => reading * tokens as f64 / read.max(1) as f64,
    };
    let parts = sequences.iter().zip(plan);
    let parts = parts.map(|(sequence, tokens)| part(sequence, *tokens));
    parts.map(Duration::from_secs_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divide(unread: &[usize], plan: &[usize], speed: Option<f64>) -> Vec<u128> {
        let pending = |unread: &usize| PendingTokens {
            unread: *unread,
            is_scored: false,
        };
        let sequences: Vec<_> = unread.iter().map(pending).collect();
        let parts = divide_step(Duration::from_millis(100), &sequences, plan, speed);
        parts.iter().map(Duration::as_millis).collect()
    }

    #[test]
    fn answers_have_equal_parts_and_prompts_what_they_take_alone() {
        assert_eq!(divide(&[0, 0], &[1, 1], None), [50, 50]);
        assert_eq!(divide(&[90, 30], &[60, 20], Some(1.0)), [75, 25]);
        assert_eq!(
            divide(&[0, 90, 0, 30], &[1, 60, 1, 0], Some(1_000.0)),
            [20, 60, 20, 0]
        );
        // A speed that cannot be leaves the answers a part.
        assert_eq!(divide(&[0, 90], &[1, 60], Some(1.0)), [5, 95]);
        assert_eq!(divide(&[0, 90], &[1, 4], None), [20, 80]);
        assert_eq!(divide(&[], &[], None), [0; 0]);
    }
}
