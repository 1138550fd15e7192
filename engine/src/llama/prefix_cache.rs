//! Which tokens the sequences of a context have computed, and where a new prompt can continue from. What was computed
//! with one adapter is of no use with another one.

use super::adapter_turns::AdapterId;

/// The fewest tokens for which a prompt waits until another one has read them.
const WORTH_WAITING: usize = WORTH_COPYING;

/// The fewest tokens that are copied from another sequence: llama.cpp copies the whole buffer of the sequence, which
/// takes as long as reading a few tokens.
const WORTH_COPYING: usize = 64;

/// What of a computed sequence a prompt can continue from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// Any beginning of it.
    AnyBeginning,
    /// All of it or nothing: the model has one state of a sequence, which cannot go back.
    WholeSequence,
}

/// The sequences of a context. Each has an index, which is llama.cpp's id of the sequence.
#[derive(Debug)]
pub(super) struct PrefixCache {
    reuse: Reuse,
    slots: Vec<Slot>,
    /// Counts the uses of slots, to order them.
    uses: u64,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    state: SlotState,
    /// What the tokens are computed with.
    adapter: Option<AdapterId>,
    /// The tokens that are computed.
    computed: Vec<u32>,
    /// The whole prompt of an active sequence.
    prompt: Vec<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum SlotState {
    #[default]
    Free,
    /// Of a sequence that goes on.
    Active,
    /// Of one that has ended. The number orders the slots by their last use.
    Kept(u64),
}

/// Where a prompt continues from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The sequence that the prompt gets.
    pub(super) slot: usize,
    /// The number of its tokens that are computed already.
    pub(super) reused: usize,
    /// The sequence that they are copied from. `None` if they are in the slot, whatever follows them there.
    pub(super) copied_from: Option<usize>,
}

/// What a prompt can do at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// Begin at this place.
    Begin(Place),
    /// Wait: another prompt is about to read what this one begins with.
    Wait,
}

impl PrefixCache {
    /// A cache of this many sequences.
    pub(super) fn new(slots: usize, reuse: Reuse) -> Self {
        Self {
            reuse,
            slots: vec![Slot::default(); slots],
            uses: 0,
        }
    }

    /// Finds a place for a prompt, of which at least the last token is computed anew: its logits are needed. `None`
    /// if all sequences are active. Nothing of a prompt that is `scored` is reused: the logits of all its tokens are
    /// needed.
    pub(super) fn enter(
        &mut self,
        adapter: Option<AdapterId>,
        prompt: &[u32],
        scored: bool,
    ) -> Option<Entry> {
        let reusable = match scored {
            true => &[],
            false => &prompt[..prompt.len().saturating_sub(1)],
        };
        let common = |slot: &Slot| match slot.adapter == adapter {
            true => self.reusable_length(slot, reusable),
            false => 0,
        };
        let best = (0..self.slots.len()).max_by_key(|index| {
            let slot = &self.slots[*index];
            // Of equals, one that needs no copy.
            (common(slot), matches!(slot.state, SlotState::Kept(_)))
        })?;
        let reused = common(&self.slots[best]);
        let is_read_by_another = self.slots.iter().any(|slot| {
            self.reuse == Reuse::AnyBeginning
                && slot.state == SlotState::Active
                && slot.adapter == adapter
                && common_length(&slot.prompt, reusable) >= reused + WORTH_WAITING
        });
        if is_read_by_another {
            return Some(Entry::Wait);
        }
        let source = &self.slots[best];
        // What follows the common beginning is lost where the slot itself goes on. That is worth a slot only if it
        // is less than what both have.
        let goes_on = matches!(source.state, SlotState::Kept(_))
            && reused > 0
            && source.computed.len() - reused <= reused;
        let is_worth_copying = reused >= WORTH_COPYING;
        let slot = if goes_on {
            best
        } else {
            self.free_slot(Some(best).filter(|_| is_worth_copying))?
        };
        let copied_from = (slot != best && is_worth_copying).then_some(best);
        let reused = if slot == best || copied_from.is_some() {
            reused
        } else {
            0
        };
        self.slots[slot] = Slot {
            state: SlotState::Active,
            adapter,
            computed: prompt[..reused].to_vec(),
            prompt: prompt.to_vec(),
        };
        Some(Entry::Begin(Place {
            slot,
            reused,
            copied_from,
        }))
    }

    /// Takes note of tokens that an active sequence has computed.
    pub(super) fn extend(&mut self, slot: usize, tokens: &[u32]) {
        self.slots[slot].computed.extend_from_slice(tokens);
    }

    /// Ends an active sequence. What it has computed is kept.
    pub(super) fn end(&mut self, slot: usize) {
        self.uses += 1;
        let slot = &mut self.slots[slot];
        slot.prompt = Vec::new();
        slot.state = match slot.computed.is_empty() {
            true => SlotState::Free,
            false => SlotState::Kept(self.uses),
        };
    }

    /// Forgets everything, after which no sequence is active.
    pub(super) fn clear(&mut self) {
        self.slots.fill(Slot::default());
    }

    /// Frees the slots of an adapter that has no active sequence.
    pub(super) fn forget(&mut self, adapter: AdapterId) {
        for slot in &mut self.slots {
            if slot.adapter == Some(adapter) {
                *slot = Slot::default();
            }
        }
    }

    /// Forgets what an active sequence has computed.
    pub(super) fn restart(&mut self, slot: usize) {
        self.slots[slot].computed.clear();
    }

    /// The number of tokens of a slot that a prompt which begins with `reusable` continues from.
    fn reusable_length(&self, slot: &Slot, reusable: &[u32]) -> usize {
        let common = common_length(&slot.computed, reusable);
        let is_whole = common == slot.computed.len() && matches!(slot.state, SlotState::Kept(_));
        match self.reuse {
            Reuse::WholeSequence if !is_whole => 0,
            Reuse::WholeSequence | Reuse::AnyBeginning => common,
        }
    }

    /// A slot for a prompt that continues from none, other than `source` if there is another: a free one, or else one of
    /// those that were used least recently. Of these it is one beside active ones, since llama.cpp computes in one go only
    /// sequences whose numbers follow each other.
    fn free_slot(&self, source: Option<usize>) -> Option<usize> {
        let last_use = |slot: &Slot| match slot.state {
            SlotState::Free => Some(0),
            SlotState::Kept(used) => Some(used),
            SlotState::Active => None,
        };
        let all = self.slots.iter().enumerate();
        let mut idle: Vec<(u64, usize)> = all
            .filter(|(index, _)| Some(*index) != source)
            .filter_map(|(index, slot)| Some((last_use(slot)?, index)))
            .collect();
        idle.sort_unstable();
        let free = idle.iter().filter(|(used, _)| *used == 0).count();
        // What was used last is what goes on most likely.
        let candidates = if free > 0 {
            free
        } else {
            idle.len().div_ceil(2)
        };
        idle.truncate(candidates);
        let active_neighbours = |index: usize| {
            let is_active = |index: usize| {
                let slot = self.slots.get(index);
                slot.is_some_and(|slot| slot.state == SlotState::Active)
            };
            usize::from(index > 0 && is_active(index - 1)) + usize::from(is_active(index + 1))
        };
        let best = idle.into_iter().min_by_key(|(used, index)| {
            let most_neighbours = std::cmp::Reverse(active_neighbours(*index));
            (most_neighbours, *used, *index)
        });
        best.map(|(_, index)| index)
            .or(source.filter(|source| self.slots[*source].state != SlotState::Active))
    }
}

fn common_length(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(range: std::ops::Range<u32>) -> Vec<u32> {
        range.collect()
    }

    fn begin(cache: &mut PrefixCache, prompt: &[u32]) -> Place {
        match cache.enter(None, prompt, false) {
            Some(Entry::Begin(place)) => place,
            other => panic!("{other:?}"),
        }
    }

    /// Computes a whole prompt and ends its sequence.
    fn complete(cache: &mut PrefixCache, prompt: &[u32]) -> Place {
        let place = begin(cache, prompt);
        cache.extend(place.slot, &prompt[place.reused..]);
        cache.end(place.slot);
        place
    }

    fn place(slot: usize, reused: usize, copied_from: Option<usize>) -> Place {
        Place {
            slot,
            reused,
            copied_from,
        }
    }

    #[test]
    fn conversation_goes_on_where_its_last_answer_ended() {
        let mut cache = PrefixCache::new(2, Reuse::AnyBeginning);
        complete(&mut cache, &tokens(0..100));
        assert_eq!(complete(&mut cache, &tokens(0..150)), place(0, 100, None));
        // The same prompt once more: its last token is computed anew.
        assert_eq!(complete(&mut cache, &tokens(0..150)), place(0, 149, None));
        let scored = cache.enter(None, &tokens(0..150), true);
        assert_eq!(scored, Some(Entry::Begin(place(1, 0, None))));
    }

    #[test]
    fn beginning_is_copied_where_the_rest_is_worth_keeping() {
        let mut cache = PrefixCache::new(4, Reuse::AnyBeginning);
        complete(&mut cache, &tokens(0..200));
        let other = [tokens(0..40), tokens(500..520)].concat();
        assert_eq!(complete(&mut cache, &other), place(1, 0, None));
        let other = [tokens(0..70), tokens(600..720)].concat();
        assert_eq!(complete(&mut cache, &other), place(2, 70, Some(0)));
        assert_eq!(complete(&mut cache, &tokens(0..220)), place(0, 200, None));
    }

    #[test]
    fn beginning_of_a_running_sequence_is_copied() {
        let mut cache = PrefixCache::new(2, Reuse::AnyBeginning);
        let running = begin(&mut cache, &tokens(0..100));
        cache.extend(running.slot, &tokens(0..100));
        let other = [tokens(0..80), tokens(500..520)].concat();
        assert_eq!(begin(&mut cache, &other), place(1, 80, Some(0)));
    }

    #[test]
    fn prompt_waits_for_another_that_reads_its_beginning() {
        let mut cache = PrefixCache::new(3, Reuse::AnyBeginning);
        let first = begin(&mut cache, &tokens(0..200));
        let second = [tokens(0..80), tokens(500..520)].concat();
        assert_eq!(cache.enter(None, &second, false), Some(Entry::Wait));
        cache.extend(first.slot, &tokens(0..70));
        // What is left to be read is not worth it.
        assert_eq!(begin(&mut cache, &second), place(1, 70, Some(0)));
        let third = [tokens(0..200), tokens(700..800)].concat();
        assert_eq!(cache.enter(None, &third, false), Some(Entry::Wait));
        // The one that it waited for has left.
        cache.end(first.slot);
        assert_eq!(begin(&mut cache, &third), place(0, 70, None));
    }

    #[test]
    fn sequence_that_was_used_least_recently_gives_way() {
        let mut cache = PrefixCache::new(2, Reuse::AnyBeginning);
        complete(&mut cache, &tokens(0..100));
        complete(&mut cache, &tokens(200..300));
        complete(&mut cache, &tokens(0..110));
        assert_eq!(begin(&mut cache, &tokens(400..500)), place(1, 0, None));
        assert_eq!(begin(&mut cache, &tokens(600..700)), place(0, 0, None));
        assert_eq!(cache.enter(None, &tokens(800..900), false), None);
    }

    #[test]
    fn active_sequences_stay_beside_each_other() {
        let mut cache = PrefixCache::new(8, Reuse::AnyBeginning);
        let prompt = |n: u32| tokens(1_000 * n..1_000 * n + 100);
        // Kept in this order: 0, 3, 6, 1, 4, 7, 2, 5.
        for n in 0..8 {
            begin(&mut cache, &prompt(n));
        }
        for slot in [0, 3, 6, 1, 4, 7, 2, 5] {
            cache.extend(slot, &prompt(slot as u32));
            cache.end(slot);
        }
        // Of those of the older half.
        let slots: Vec<_> = (10..15)
            .map(|n| begin(&mut cache, &prompt(n)).slot)
            .collect();
        assert_eq!(slots, [0, 1, 3, 4, 6]);
        // What was used last is kept, and continued where it is.
        assert_eq!(begin(&mut cache, &tokens(5_000..5_120)).slot, 5);
    }

    #[test]
    fn slot_whose_beginning_is_needed_is_used_where_no_other_is_left() {
        let mut cache = PrefixCache::new(1, Reuse::AnyBeginning);
        complete(&mut cache, &tokens(0..100));
        let other = [tokens(0..20), tokens(500..600)].concat();
        assert_eq!(begin(&mut cache, &other), place(0, 20, None));
    }

    #[test]
    fn state_of_a_recurrent_model_is_continued_or_computed_anew() {
        let mut cache = PrefixCache::new(3, Reuse::WholeSequence);
        complete(&mut cache, &tokens(0..200));
        assert_eq!(complete(&mut cache, &tokens(0..250)), place(0, 200, None));
        // It begins like the other one, which nevertheless is kept: its state is of all its tokens.
        let other = [tokens(0..240), tokens(500..600)].concat();
        assert_eq!(begin(&mut cache, &other), place(1, 0, None));
        // Nobody waits for the beginning that another one reads.
        assert_eq!(begin(&mut cache, &other), place(2, 0, None));
        cache.extend(1, &other[..100]);
        cache.end(2);
        assert_eq!(begin(&mut cache, &other), place(2, 0, None));
    }

    #[test]
    fn what_was_computed_with_another_adapter_is_not_reused() {
        let mut cache = PrefixCache::new(3, Reuse::AnyBeginning);
        complete(&mut cache, &tokens(0..100));
        let adapter = Some(AdapterId(1));
        let enter =
            |cache: &mut PrefixCache, adapter| match cache.enter(adapter, &tokens(0..120), false) {
                Some(Entry::Begin(place)) => place,
                other => panic!("{other:?}"),
            };
        let first = enter(&mut cache, adapter);
        assert_eq!(first, place(1, 0, None));
        // Nor does a prompt wait for one that is read with another adapter.
        assert_eq!(enter(&mut cache, Some(AdapterId(2))), place(2, 0, None));
        cache.extend(first.slot, &tokens(0..120));
        cache.end(first.slot);
        assert_eq!(enter(&mut cache, adapter), place(1, 119, None));
        cache.end(1);
        cache.forget(AdapterId(1));
        assert_eq!(enter(&mut cache, adapter), place(1, 0, None));
    }
}
