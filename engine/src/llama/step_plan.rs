//! Decides what the next step computes.

/// The most tokens of scored prompts in a step: each has logits over the whole vocabulary, which take memory and are
/// searched after the step, while no answer goes on.
pub(super) const SCORED_TOKENS: usize = 32;

/// A sequence that has tokens to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PendingTokens {
    /// The tokens of its prompt that are not read yet. 0 if it writes an answer, which needs one token computed.
    pub(super) unread: usize,
    /// Whether the tokens of its prompt are scored.
    pub(super) is_scored: bool,
}

/// Returns how many tokens of each sequence the next step computes. `sequences` are in the order of their arrival;
/// `reading` is how many tokens of prompts a step reads, and `limit` how many tokens it computes in all.
///
/// Every answer goes on by a token. The oldest prompt gets half of the reading, so that it ends; the other half goes
/// to the prompts of which least is left, so that a short one does not wait behind a long one. Scored prompts have
/// [`SCORED_TOKENS`] of it together at most.
pub(super) fn plan_step(sequences: &[PendingTokens], reading: usize, limit: usize) -> Vec<usize> {
    let mut plan = vec![0; sequences.len()];
    let mut rest = limit;
    for (index, sequence) in sequences.iter().enumerate() {
        if sequence.unread == 0 && rest > 0 {
            plan[index] = 1;
            rest -= 1;
        }
    }
    let reading = reading.min(rest);
    let mut prompts: Vec<usize> = (0..sequences.len())
        .filter(|index| sequences[*index].unread > 0)
        .collect();
    let mut rest = reading;
    let mut scored = SCORED_TOKENS;
    let mut read = |plan: &mut Vec<usize>, index: usize, most: usize| {
        let sequence = sequences[index];
        let mut tokens = (sequence.unread - plan[index]).min(most).min(rest);
        if sequence.is_scored {
            tokens = tokens.min(scored);
            scored -= tokens;
        }
        plan[index] += tokens;
        rest -= tokens;
    };
    if let Some(oldest) = prompts.first() {
        read(&mut plan, *oldest, reading.div_ceil(2));
    }
    prompts.sort_by_key(|index| sequences[*index].unread);
    for index in prompts {
        read(&mut plan, index, usize::MAX);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(unread: &[usize], reading: usize, limit: usize) -> Vec<usize> {
        let sequences = unread.iter().map(|unread| pending(*unread, false));
        plan_step(&sequences.collect::<Vec<_>>(), reading, limit)
    }

    fn pending(unread: usize, is_scored: bool) -> PendingTokens {
        PendingTokens { unread, is_scored }
    }

    #[test]
    fn answers_go_on_while_prompts_are_read() {
        assert_eq!(plan(&[0, 0, 0], 64, 256), [1, 1, 1]);
        assert_eq!(plan(&[0, 2_000, 0], 64, 256), [1, 64, 1]);
        assert_eq!(plan(&[0, 30, 0], 64, 256), [1, 30, 1]);
        assert_eq!(plan(&[], 64, 256), [0; 0]);
    }

    #[test]
    fn short_prompt_passes_a_long_one_which_goes_on_too() {
        assert_eq!(plan(&[2_000, 40, 20], 64, 256), [32, 12, 20]);
        assert_eq!(plan(&[2_000, 10], 64, 256), [54, 10]);
        assert_eq!(plan(&[10, 2_000], 64, 256), [10, 54]);
    }

    #[test]
    fn step_is_never_larger_than_its_limit() {
        assert_eq!(plan(&[0, 0, 500], 256, 100), [1, 1, 98]);
        assert_eq!(plan(&[0, 0, 0], 64, 2), [1, 1, 0]);
    }

    #[test]
    fn few_tokens_of_scored_prompts_are_read_in_a_step() {
        let plan = |sequences: &[PendingTokens]| plan_step(sequences, 200, 256);
        let long = pending(2_000, true);
        assert_eq!(plan(&[long]), [32]);
        assert_eq!(plan(&[pending(0, false), long, long]), [1, 32, 0]);
        // The others read what it leaves.
        assert_eq!(plan(&[long, pending(500, false)]), [32, 168]);
        assert_eq!(
            plan(&[pending(500, false), pending(20, true), long]),
            [180, 20, 0]
        );
    }
}
