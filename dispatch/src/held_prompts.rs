//! The prompts and answers of the newest decisions whose tasks learn from feedback: held in memory until
//! feedback comes, bounded in number and in bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_core::TaskName;
use parking_lot::Mutex;

use crate::kept_prompt::KeptPrompt;

/// The most prompts that are held.
const MAX_PROMPTS: usize = 10_000;
/// All held prompts and answers together, in bytes.
const MAX_TOTAL_BYTES: usize = 64 << 20;
/// What a prompt takes besides its text, in bytes.
const ENTRY_BYTES: usize = 256;

/// A prompt with its answer. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct HeldPrompt {
    pub(crate) prompt: Arc<KeptPrompt>,
    /// The complete answer. `None` before it, and where there is none.
    pub(crate) answer: Option<Arc<str>>,
}

impl HeldPrompt {
    fn bytes(&self) -> usize {
        let answer = self.answer.as_ref().map_or(0, |answer| answer.len());
        ENTRY_BYTES + self.prompt.bytes() + answer
    }
}

/// Holds the newest prompts, by the numbers of their decisions. The oldest make room.
#[derive(Default)]
pub(crate) struct HeldPrompts {
    prompts: Mutex<BoundedPrompts>,
}

#[derive(Default)]
struct BoundedPrompts {
    by_decision: BTreeMap<u64, HeldPrompt>,
    bytes: usize,
}

impl HeldPrompts {
    /// Holds the prompt of a decision.
    pub(crate) fn insert(&self, decision: u64, prompt: Arc<KeptPrompt>) {
        let answer = None;
        self.prompts
            .lock()
            .insert(decision, HeldPrompt { prompt, answer });
    }

    /// Adds the answer to the prompt of a decision, if the prompt is still held.
    pub(crate) fn set_answer(&self, decision: u64, answer: &str) {
        let mut prompts = self.prompts.lock();
        if let Some(HeldPrompt { prompt, .. }) = prompts.remove(decision) {
            let answer = Some(answer.into());
            prompts.insert(decision, HeldPrompt { prompt, answer });
        }
    }

    /// Returns the prompt of a decision, if it is still held.
    pub(crate) fn get(&self, decision: u64) -> Option<HeldPrompt> {
        self.prompts.lock().by_decision.get(&decision).cloned()
    }

    /// Forgets the prompt of a decision.
    pub(crate) fn remove(&self, decision: u64) {
        self.prompts.lock().remove(decision);
    }

    /// Forgets the prompts of the decisions before this one.
    pub(crate) fn remove_before(&self, decision: u64) {
        let mut prompts = self.prompts.lock();
        while prompts.oldest().is_some_and(|oldest| oldest < decision) {
            prompts.remove_oldest();
        }
    }

    /// Forgets the prompts of a task.
    pub(crate) fn remove_task(&self, task: &TaskName) {
        let mut prompts = self.prompts.lock();
        prompts
            .by_decision
            .retain(|_, held| held.prompt.task != *task);
        prompts.bytes = prompts.by_decision.values().map(HeldPrompt::bytes).sum();
    }
}

impl BoundedPrompts {
    fn insert(&mut self, decision: u64, held: HeldPrompt) {
        self.bytes += held.bytes();
        self.by_decision.insert(decision, held);
        while self.by_decision.len() > MAX_PROMPTS || self.bytes > MAX_TOTAL_BYTES {
            self.remove_oldest();
        }
    }

    fn remove(&mut self, decision: u64) -> Option<HeldPrompt> {
        let held = self.by_decision.remove(&decision)?;
        self.bytes -= held.bytes();
        Some(held)
    }

    fn oldest(&self) -> Option<u64> {
        self.by_decision.keys().next().copied()
    }

    fn remove_oldest(&mut self) {
        if let Some((_, held)) = self.by_decision.pop_first() {
            self.bytes -= held.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept_answer::MAX_ANSWER_BYTES;
    use crate::kept_prompt::tests::prompt;

    #[test]
    fn prompts_are_bounded_in_number_and_the_oldest_make_room() {
        let held = HeldPrompts::default();
        let short = Arc::new(prompt("banking", "hi"));
        let count = MAX_PROMPTS as u64 + 5;
        for decision in 0..count {
            held.insert(decision, short.clone());
        }
        assert_eq!(held.prompts.lock().by_decision.len(), MAX_PROMPTS);
        assert!(held.get(4).is_none() && held.get(5).is_some());
        held.remove_before(count - 2);
        assert!(held.get(count - 3).is_none() && held.get(count - 2).is_some());
        held.insert(count, Arc::new(prompt("travel", "hi")));
        held.remove_task(&TaskName::new("banking").unwrap());
        assert!(held.get(count - 1).is_none() && held.get(count).is_some());
        held.remove(count);
        assert_eq!(held.prompts.lock().bytes, 0);
    }

    #[test]
    fn prompts_and_answers_are_bounded_in_bytes() {
        let held = HeldPrompts::default();
        let answer = "y".repeat(MAX_ANSWER_BYTES);
        let long = Arc::new(prompt("banking", &"x".repeat(30_000)));
        let count = (MAX_TOTAL_BYTES / 60_000) as u64 + 10;
        for decision in 0..count {
            held.insert(decision, long.clone());
            held.set_answer(decision, &answer);
        }
        assert!(held.prompts.lock().bytes <= MAX_TOTAL_BYTES);
        assert!(held.get(0).is_none());
        let newest = held.get(count - 1).unwrap();
        assert_eq!(newest.answer.as_deref(), Some(answer.as_str()));
        held.set_answer(0, "late");
        assert!(held.get(0).is_none(), "it is not held any more");
    }
}
