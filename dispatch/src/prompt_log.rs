//! The prompts of the newest decisions, where they are recorded: bounded in bytes, since prompts may be
//! of any length.

use std::collections::BTreeMap;

use parking_lot::Mutex;

/// Longest recorded prompt, in bytes; the rest is cut off.
const MAX_PROMPT_BYTES: usize = 16 << 10;
/// All recorded prompts together, in bytes.
const MAX_TOTAL_BYTES: usize = 64 << 20;
/// What takes the place of the rest.
const CUT: &str = "…";

/// Keeps the newest prompts, by the numbers of their decisions.
#[derive(Default)]
pub(crate) struct PromptLog {
    prompts: Mutex<Prompts>,
}

#[derive(Default)]
struct Prompts {
    by_decision: BTreeMap<u64, Box<str>>,
    bytes: usize,
}

impl PromptLog {
    /// Records the prompt of a decision. The oldest prompts make room.
    pub(crate) fn insert(&self, decision: u64, prompt: String) {
        let prompt = cut(prompt).into_boxed_str();
        let mut prompts = self.prompts.lock();
        prompts.bytes += prompt.len();
        prompts.by_decision.insert(decision, prompt);
        while prompts.bytes > MAX_TOTAL_BYTES {
            let Some((_, oldest)) = prompts.by_decision.pop_first() else {
                break;
            };
            prompts.bytes -= oldest.len();
        }
    }

    /// Returns the prompt of a decision, if it is recorded and still kept.
    pub(crate) fn get(&self, decision: u64) -> Option<String> {
        let prompts = self.prompts.lock();
        prompts
            .by_decision
            .get(&decision)
            .map(|prompt| prompt.to_string())
    }

    /// Forgets the prompts of the decisions before this one.
    pub(crate) fn forget_before(&self, decision: u64) {
        let mut prompts = self.prompts.lock();
        while let Some(entry) = prompts.by_decision.first_entry() {
            if *entry.key() >= decision {
                return;
            }
            let forgotten = entry.remove();
            prompts.bytes -= forgotten.len();
        }
    }
}

/// The prompt, or its beginning if it is too long.
fn cut(mut prompt: String) -> String {
    if prompt.len() > MAX_PROMPT_BYTES {
        let end = prompt.floor_char_boundary(MAX_PROMPT_BYTES - CUT.len());
        prompt.truncate(end);
        prompt.push_str(CUT);
    }
    prompt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_bounded_one_by_one_and_together() {
        let log = PromptLog::default();
        let count = (MAX_TOTAL_BYTES / MAX_PROMPT_BYTES) as u64 + 10;
        for decision in 0..count {
            log.insert(decision, "ä".repeat(MAX_PROMPT_BYTES));
        }
        assert!(log.prompts.lock().bytes <= MAX_TOTAL_BYTES);
        assert_eq!(log.get(0), None, "the oldest made room");
        let newest = log.get(count - 1).unwrap();
        assert!(newest.len() <= MAX_PROMPT_BYTES && newest.ends_with("ä…"));
        log.forget_before(count - 1);
        assert_eq!(
            (log.get(count - 2), log.get(count - 1)),
            (None, Some(newest))
        );
        log.insert(count, "short".into());
        assert_eq!(log.get(count).as_deref(), Some("short"));
    }
}
