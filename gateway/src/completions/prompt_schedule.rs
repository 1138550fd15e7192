//! Which prompts of a request are sent when.

use std::collections::VecDeque;
use std::time::Duration;

use flotilla_core::routing::MAX_RETRY_AFTER;

/// The most prompts of one request that are under way at once.
const MAX_UNDER_WAY: usize = 8;
/// How often in a row a prompt is sent again that was refused while no other was under way.
const MAX_REFUSALS_ALONE: u32 = 10;

/// Which prompts of a request are sent when: a bounded number at once, and no more than the queues of the
/// fleet take. After a refusal as many are under way as were taken; after each round without one it is one
/// more.
#[derive(Debug)]
pub(super) struct PromptSchedule {
    /// The prompts that are to be sent, by index.
    waiting: VecDeque<usize>,
    under_way: usize,
    /// The number of prompts that may be under way now.
    limit: usize,
    /// Answers that have ended since the limit changed.
    ended: usize,
    refusals_alone: u32,
    has_answered: bool,
}

/// What happens to a prompt that was refused because every queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is sent again when the answer to another one ends.
    Wait,
    /// It is sent again after the time that the refusal says.
    Pause,
    /// The request is refused.
    GiveUp,
}

impl PromptSchedule {
    pub(super) fn new(prompts: usize) -> Self {
        Self {
            waiting: (0..prompts).collect(),
            under_way: 0,
            limit: MAX_UNDER_WAY,
            ended: 0,
            refusals_alone: 0,
            has_answered: false,
        }
    }

    /// Returns the next prompt to send now. `None` if none may be sent.
    pub(super) fn start_next(&mut self) -> Option<usize> {
        if self.under_way >= self.limit {
            return None;
        }
        let prompt = self.waiting.pop_front()?;
        self.under_way += 1;
        Some(prompt)
    }

    /// Records that the answer to a prompt has ended.
    pub(super) fn record_end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        self.has_answered = true;
        self.refusals_alone = 0;
        self.ended += 1;
        if self.ended >= self.limit {
            self.set_limit(self.limit + 1);
        }
    }

    /// Records that a prompt was refused because every queue is full, with the delay `retry_after` and the
    /// time that `remains` for the request. A request of which nothing has been answered is refused with its
    /// only prompt under way, and any request where the delay is long: the client knows better what to do
    /// then.
    pub(super) fn record_refusal(
        &mut self,
        prompt: usize,
        retry_after: Duration,
        remains: Duration,
    ) -> Refusal {
        self.under_way = self.under_way.saturating_sub(1);
        self.waiting.push_front(prompt);
        self.set_limit(self.under_way);
        if self.under_way > 0 {
            return Refusal::Wait;
        }
        self.refusals_alone += 1;
        let is_short = retry_after <= MAX_RETRY_AFTER && retry_after < remains;
        if self.has_answered && is_short && self.refusals_alone <= MAX_REFUSALS_ALONE {
            Refusal::Pause
        } else {
            Refusal::GiveUp
        }
    }

    fn set_limit(&mut self, limit: usize) {
        self.limit = limit.clamp(1, MAX_UNDER_WAY);
        self.ended = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start_all(schedule: &mut PromptSchedule) -> Vec<usize> {
        std::iter::from_fn(|| schedule.start_next()).collect()
    }

    fn refuse(schedule: &mut PromptSchedule, prompt: usize) -> Refusal {
        schedule.record_refusal(prompt, Duration::from_secs(1), Duration::from_secs(600))
    }

    #[test]
    fn bounded_number_is_under_way_and_the_next_follows_an_end() {
        let mut schedule = PromptSchedule::new(20);
        assert_eq!(start_all(&mut schedule), (0..8).collect::<Vec<_>>());
        schedule.record_end();
        assert_eq!(start_all(&mut schedule), [8]);
    }

    #[test]
    fn refused_prompt_is_sent_again_when_another_ends() {
        let mut schedule = PromptSchedule::new(20);
        start_all(&mut schedule);
        // A queue with room for two.
        for prompt in (2..8).rev() {
            assert_eq!(refuse(&mut schedule, prompt), Refusal::Wait);
        }
        assert!(start_all(&mut schedule).is_empty());
        schedule.record_end();
        assert_eq!(start_all(&mut schedule), [2]);
        schedule.record_end();
        // A round without a refusal: one more is tried.
        assert_eq!(start_all(&mut schedule), [3, 4]);
    }

    #[test]
    fn request_is_refused_if_its_only_prompt_is_and_nothing_was_answered() {
        let mut schedule = PromptSchedule::new(2);
        start_all(&mut schedule);
        assert_eq!(refuse(&mut schedule, 1), Refusal::Wait);
        assert_eq!(refuse(&mut schedule, 0), Refusal::GiveUp);
    }

    #[test]
    fn prompt_refused_alone_is_sent_again_a_bounded_number_of_times() {
        let mut schedule = PromptSchedule::new(2);
        start_all(&mut schedule);
        assert_eq!(refuse(&mut schedule, 1), Refusal::Wait);
        schedule.record_end();
        for _ in 0..MAX_REFUSALS_ALONE {
            assert_eq!(start_all(&mut schedule), [1]);
            assert_eq!(refuse(&mut schedule, 1), Refusal::Pause);
        }
        assert_eq!(start_all(&mut schedule), [1]);
        assert_eq!(refuse(&mut schedule, 1), Refusal::GiveUp);
    }

    #[test]
    fn request_does_not_wait_longer_than_dispatch_would_or_its_time_allows() {
        let seconds = Duration::from_secs;
        let refused = |retry_after, remains| {
            let mut schedule = PromptSchedule::new(2);
            start_all(&mut schedule);
            assert_eq!(refuse(&mut schedule, 1), Refusal::Wait);
            schedule.record_end();
            start_all(&mut schedule);
            schedule.record_refusal(1, seconds(retry_after), seconds(remains))
        };
        assert_eq!(refused(5, 600), Refusal::Pause);
        assert_eq!(refused(6, 600), Refusal::GiveUp);
        assert_eq!(refused(86_400, 600), Refusal::GiveUp);
        assert_eq!(refused(3, 3), Refusal::GiveUp);
    }
}
