//! One answer in the engine.

use std::time::{Duration, Instant};

use flotilla_core::generate::{FinishReason, RequestError};
use tokio::sync::mpsc::UnboundedSender;

use super::adapter_turns::AdapterId;
use crate::text::token_sampler::{SampledToken, TokenSampler};

/// How often the time of a sequence is reported to its reader: twice in a window of the energy accounts.
const TIME_REPORT_INTERVAL: Duration = Duration::from_millis(50);

/// An answer to compute.
pub(super) struct Task {
    /// The adapter that it is computed with. `None`: the model alone.
    pub(super) adapter: Option<AdapterId>,
    pub(super) prompt: Vec<u32>,
    pub(super) sampler: TokenSampler,
    /// The most tokens of the answer. With 0 only the prompt is scored.
    pub(super) max_tokens: usize,
    /// Scores the tokens of the prompt. `None` if nobody asks for their log-probabilities.
    pub(super) scorer: Option<TokenSampler>,
    /// Receives what is computed. At most two events for each token, and three more. Dropping the receiver ends the
    /// sequence.
    pub(super) events: UnboundedSender<SequenceEvent>,
}

/// What a sequence tells its reader.
#[derive(Debug)]
pub(super) enum SequenceEvent {
    /// The tokens of the prompt after the first one, with their log-probabilities.
    PromptScores(Vec<SampledToken>),
    /// How long the steps have taken for this sequence so far.
    Computed(Duration),
    /// The next token of the answer, and its log-probability if that was requested.
    Token(u32, Option<SampledToken>),
    /// The answer has ended. Nothing follows.
    Ended(FinishReason),
    /// The answer cannot go on. Nothing follows.
    Failed(RequestError),
    /// The grammar of the answer cannot be followed any further; the text says why. Nothing follows.
    NoWord(String),
}

/// A sequence that has a place in the context.
pub(super) struct Sequence {
    pub(super) task: Task,
    /// The id of the sequence in the context.
    pub(super) slot: usize,
    /// The tokens of the prompt, then of the answer.
    pub(super) tokens: Vec<u32>,
    /// The number of tokens that are computed.
    pub(super) computed: usize,
    /// The scores of the prompt so far.
    scores: Vec<SampledToken>,
    /// How long the steps have taken for this sequence, and when that was reported.
    time: Duration,
    time_reported: Instant,
}

impl Sequence {
    /// A sequence whose first `reused` tokens are computed.
    pub(super) fn new(task: Task, slot: usize, reused: usize) -> Self {
        Self {
            tokens: task.prompt.clone(),
            task,
            slot,
            computed: reused,
            scores: Vec::new(),
            time: Duration::ZERO,
            time_reported: Instant::now(),
        }
    }

    /// The tokens of the prompt that are not read yet.
    pub(super) fn unread(&self) -> usize {
        self.task.prompt.len().saturating_sub(self.computed)
    }

    /// Whether the logits after each token of the prompt are needed that is not read yet.
    pub(super) fn is_scored(&self) -> bool {
        self.task.scorer.is_some()
    }

    /// Whether nobody reads the answer any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.task.events.is_closed()
    }

    /// Whether the logits after the token at this position are needed.
    pub(super) fn needs_logits(&self, position: usize) -> bool {
        self.is_scored() || position + 1 == self.tokens.len()
    }

    /// Adds the part of a step that was this sequence's.
    pub(super) fn add_time(&mut self, time: Duration) {
        self.time += time;
        if self.time_reported.elapsed() >= TIME_REPORT_INTERVAL {
            self.time_reported = Instant::now();
            self.send(SequenceEvent::Computed(self.time));
        }
    }

    /// Takes the logits after the token at `position`. Returns whether the sequence has ended.
    pub(super) fn take_logits(
        &mut self,
        position: usize,
        logits: &mut [f32],
        is_end: impl Fn(u32) -> bool,
    ) -> bool {
        if position + 1 < self.tokens.len() {
            return self.score(logits);
        }
        if let Some(scores) = self
            .task
            .scorer
            .take()
            .map(|_| std::mem::take(&mut self.scores))
        {
            self.send(SequenceEvent::PromptScores(scores));
        }
        if self.task.max_tokens == 0 {
            return self.end(SequenceEvent::Ended(FinishReason::Length));
        }
        let (token, sampled) = match self.task.sampler.choose(logits) {
            Ok(choice) => choice,
            Err(problem) => return self.end(SequenceEvent::NoWord(problem)),
        };
        self.tokens.push(token);
        if is_end(token) {
            // It is no part of the answer, but was computed.
            self.send(SequenceEvent::Token(token, None));
            return self.end(SequenceEvent::Ended(FinishReason::Stop));
        }
        self.send(SequenceEvent::Token(token, sampled));
        if self.tokens.len() - self.task.prompt.len() >= self.task.max_tokens {
            return self.end(SequenceEvent::Ended(FinishReason::Length));
        }
        false
    }

    fn score(&mut self, logits: &mut [f32]) -> bool {
        let Some(scorer) = &mut self.task.scorer else {
            return false;
        };
        match scorer.choose(logits) {
            Ok((_, sampled)) => self.scores.extend(sampled),
            // A scorer has no grammar.
            Err(problem) => return self.end(SequenceEvent::NoWord(problem)),
        }
        false
    }

    /// Ends the sequence with an error.
    pub(super) fn fail(&self, error: RequestError) {
        self.send(SequenceEvent::Computed(self.time));
        self.send(SequenceEvent::Failed(error));
    }

    fn end(&self, event: SequenceEvent) -> bool {
        self.send(SequenceEvent::Computed(self.time));
        self.send(event);
        true
    }

    fn send(&self, event: SequenceEvent) {
        // Without a receiver the sequence is removed before the next step.
        let _ = self.task.events.send(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_core::generate::SamplingParams;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    const END: u32 = 3;

    fn sequence(
        prompt: &[u32],
        max_tokens: usize,
        scored: bool,
    ) -> (Sequence, UnboundedReceiver<SequenceEvent>) {
        let greedy = SamplingParams {
            temperature: Some(0.0),
            ..SamplingParams::default()
        };
        let (events, received) = unbounded_channel();
        let scorer = TokenSampler::new(&SamplingParams::default(), &[], Some(1));
        let task = Task {
            adapter: None,
            prompt: prompt.to_vec(),
            sampler: TokenSampler::new(&greedy, prompt, None),
            max_tokens,
            scorer: scored.then(|| scorer.with_forced_tokens(prompt[1..].to_vec())),
            events,
        };
        (Sequence::new(task, 0, 0), received)
    }

    fn take(sequence: &mut Sequence, position: usize, best: usize) -> bool {
        let mut logits = [0.0; 4];
        logits[best] = 5.0;
        sequence.take_logits(position, &mut logits, |token| token == END)
    }

    #[test]
    fn answer_ends_with_an_end_token_or_at_its_limit() {
        let (mut sequence, mut events) = sequence(&[1, 2], 2, false);
        assert_eq!(sequence.unread(), 2);
        assert!(!sequence.needs_logits(0) && sequence.needs_logits(1));
        assert!(!take(&mut sequence, 1, 0));
        assert!(take(&mut sequence, 2, 1));
        let mut texts = Vec::new();
        while let Ok(event) = events.try_recv() {
            texts.push(format!("{event:?}"));
        }
        let expected = [
            "Token(0, None)",
            "Token(1, None)",
            "Computed(0ns)",
            "Ended(Length)",
        ];
        assert_eq!(texts, expected);
        let (mut sequence, mut events) = self::sequence(&[1], 9, false);
        assert!(take(&mut sequence, 0, END as usize));
        assert!(matches!(
            events.try_recv(),
            Ok(SequenceEvent::Token(END, None))
        ));
        assert!(matches!(
            events.try_recv(),
            Ok(SequenceEvent::Computed(Duration::ZERO))
        ));
        assert!(matches!(
            events.try_recv(),
            Ok(SequenceEvent::Ended(FinishReason::Stop))
        ));
    }

    #[test]
    fn prompt_is_scored_token_by_token() {
        let (mut sequence, mut events) = sequence(&[1, 2, 0], 0, true);
        assert!(sequence.needs_logits(0));
        assert!(!take(&mut sequence, 0, 2));
        assert!(!take(&mut sequence, 1, 2));
        assert!(take(&mut sequence, 2, 1));
        let Ok(SequenceEvent::PromptScores(scores)) = events.try_recv() else {
            panic!("no scores");
        };
        assert_eq!(scores.iter().map(|s| s.token).collect::<Vec<_>>(), [2, 0]);
        assert!(scores[0].logprob > scores[1].logprob);
        drop(events);
        assert!(sequence.is_abandoned());
    }
}
