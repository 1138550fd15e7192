//! The thread that computes the answers of a model.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use flotilla_core::generate::RequestError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use tokio::sync::oneshot;

use super::adapter::Adapters;
use super::adapter_turns::{AdapterId, AdapterTurns};
use super::prefix_cache::{Entry, Place, PrefixCache, Reuse};
use super::reading_pace::{ReadingPace, StepTokens};
use super::sequence::{Sequence, SequenceEvent, Task};
use super::step_plan::{PendingTokens, plan_step};
use super::step_time::divide_step;
use super::thread_status::ThreadStatus;
use crate::LoadError;
use crate::files::adapter::GgufAdapter;

/// What a decoder is asked to do.
pub(super) enum Command {
    /// Compute an answer.
    Answer(Box<Task>),
    /// Load an adapter from a GGUF file.
    LoadAdapter {
        file: GgufAdapter,
        loaded: oneshot::Sender<Result<AdapterId, LoadError>>,
    },
    /// Free an adapter, after all sequences that are computed with it.
    RemoveAdapter {
        id: AdapterId,
        removed: oneshot::Sender<()>,
    },
}

/// Computes answers.
pub(super) struct Decoder<'model> {
    context: LlamaContext<'model>,
    batch: LlamaBatch<'static>,
    /// The most sequences that are computed at once.
    limit: usize,
    end_tokens: Arc<[u32]>,
    cache: PrefixCache,
    adapters: Adapters<'model>,
    turns: AdapterTurns,
    /// The adapters to free, and where that is reported.
    leaving: Vec<(AdapterId, oneshot::Sender<()>)>,
    pace: ReadingPace,
    status: Arc<ThreadStatus>,
    /// Tasks without a place yet, in the order of their arrival.
    waiting: VecDeque<Task>,
    /// In the order in which they got their places.
    active: Vec<Sequence>,
}

/// A token of a step whose logits are needed: the sequence, by its index in [`Decoder::active`], its position there,
/// and the index in the batch.
struct Wanted {
    sequence: usize,
    position: usize,
    output: i32,
}

impl<'model> Decoder<'model> {
    /// Computes at most `limit` sequences at once, with batches of at most `context.n_batch()` tokens.
    pub(super) fn new(
        context: LlamaContext<'model>,
        limit: usize,
        reuse: Reuse,
        adapters: Adapters<'model>,
        end_tokens: Arc<[u32]>,
        status: Arc<ThreadStatus>,
    ) -> Self {
        let tokens = context.n_batch() as usize;
        Self {
            batch: LlamaBatch::new(tokens, 1),
            cache: PrefixCache::new(limit, reuse),
            adapters,
            turns: AdapterTurns::default(),
            leaving: Vec::new(),
            pace: ReadingPace::new(tokens),
            context,
            limit,
            end_tokens,
            status,
            waiting: VecDeque::new(),
            active: Vec::new(),
        }
    }

    /// Computes what comes, until the channel is closed and nobody reads an answer any more.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        while self.receive(commands) {
            self.remove_abandoned();
            self.remove_adapters();
            self.admit();
            if !self.active.is_empty() {
                self.step();
            }
        }
    }

    /// Takes all commands that have come, and waits for one if there is nothing to do. Returns `false` when nothing is
    /// left to do and nothing can come.
    fn receive(&mut self, commands: &Receiver<Command>) -> bool {
        loop {
            if self.active.is_empty() && self.waiting.is_empty() && self.leaving.is_empty() {
                match commands.recv() {
                    Ok(command) => self.take(command),
                    Err(_) => return false,
                }
            }
            match commands.try_recv() {
                Ok(command) => self.take(command),
                Err(TryRecvError::Empty) => return true,
                // The model is unloaded: nobody waits for an answer.
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Answer(task) => self.waiting.push_back(*task),
            Command::LoadAdapter { file, loaded } => {
                let id = self.adapters.load(&file);
                // Nobody waits for it any more.
                if let Err(Ok(id)) = loaded.send(id) {
                    self.remove_adapter(id);
                }
            }
            Command::RemoveAdapter { id, removed } => self.leaving.push((id, removed)),
        }
    }

    /// Frees the adapters that are to leave, once no sequence is computed with them.
    fn remove_adapters(&mut self) {
        for (id, removed) in std::mem::take(&mut self.leaving) {
            let uses = |task: &Task| task.adapter == Some(id);
            if self.waiting.iter().any(uses) || self.active.iter().any(|s| uses(&s.task)) {
                self.leaving.push((id, removed));
            } else {
                self.remove_adapter(id);
                // Without a receiver nobody waits for it.
                let _ = removed.send(());
            }
        }
    }

    fn remove_adapter(&mut self, id: AdapterId) {
        self.cache.forget(id);
        if let Err(problem) = self.adapters.remove(&mut self.context, id) {
            tracing::warn!(problem, "an adapter was not freed");
        }
    }

    fn remove_abandoned(&mut self) {
        self.waiting.retain(|task| !task.events.is_closed());
        let cache = &mut self.cache;
        self.active.retain(|sequence| {
            let stays = !sequence.is_abandoned();
            if !stays {
                cache.end(sequence.slot);
            }
            stays
        });
    }

    /// Gives places to the tasks that have waited longest.
    fn admit(&mut self) {
        let mut later = VecDeque::new();
        while self.active.len() < self.limit
            && let Some(task) = self.waiting.pop_front()
        {
            if task.adapter.is_some_and(|id| !self.adapters.contains(id)) {
                let error = RequestError::Engine("the adapter is not loaded any more".into());
                // Without a receiver nobody asks.
                let _ = task.events.send(SequenceEvent::Failed(error));
                continue;
            }
            match self
                .cache
                .enter(task.adapter, &task.prompt, task.scorer.is_some())
            {
                Some(Entry::Begin(place)) => self.begin(task, place),
                Some(Entry::Wait) | None => later.push_back(task),
            }
        }
        later.append(&mut self.waiting);
        self.waiting = later;
    }

    fn begin(&mut self, task: Task, place: Place) {
        let Place {
            slot,
            reused,
            copied_from,
        } = place;
        let is_ready = match copied_from {
            Some(source) => self.clear(slot, 0) && self.copy(source, slot, reused),
            None => self.clear(slot, reused),
        };
        // Some caches cannot go back, either.
        let reused = if is_ready {
            reused
        } else {
            self.cache.restart(slot);
            self.clear(slot, 0);
            0
        };
        self.active.push(Sequence::new(task, slot, reused));
    }

    /// Removes what a sequence has from a position on. Returns `false` if the model cannot.
    fn clear(&mut self, slot: usize, from: usize) -> bool {
        let removed = self
            .context
            .clear_kv_cache_seq(Some(slot as u32), Some(from as u32), None);
        removed.unwrap_or(false)
    }

    /// Gives a sequence the first tokens of another one. Returns `false` if the model cannot.
    fn copy(&mut self, source: usize, slot: usize, tokens: usize) -> bool {
        // Each has a buffer of its own, of which llama.cpp copies all or nothing.
        let copied = self
            .context
            .copy_kv_cache_seq(source as i32, slot as i32, None, None);
        copied.is_ok() && self.clear(slot, tokens)
    }

    /// Computes the next tokens of all sequences whose turn it is.
    fn step(&mut self) {
        let adapters = self.active.iter().map(|sequence| sequence.task.adapter);
        let Some(turn) = self.turns.next(adapters) else {
            return;
        };
        let has_changed = match self.adapters.select(&mut self.context, turn) {
            Ok(has_changed) => has_changed,
            Err(problem) => return self.fail_all(&problem),
        };
        let (in_turn, pending): (Vec<_>, Vec<_>) = self
            .active
            .iter()
            .enumerate()
            .filter(|(_, sequence)| sequence.task.adapter == turn)
            .map(|(index, sequence)| (index, pending(sequence)))
            .unzip();
        let limit = self.context.n_batch() as usize;
        // Those of the other adapters wait for the end of this step, too.
        let is_writing = self.active.iter().any(|sequence| sequence.unread() == 0);
        let planned = plan_step(&pending, self.pace.tokens(is_writing), limit);
        let mut plan = vec![0; self.active.len()];
        for (index, tokens) in in_turn.iter().zip(&planned) {
            plan[*index] = *tokens;
        }
        let wanted = match self.fill_batch(&plan) {
            Ok(wanted) => wanted,
            Err(error) => return self.fail_all(&error.to_string()),
        };
        let tokens = self.batch.n_tokens() as usize;
        let began = Instant::now();
        self.status.begin(tokens);
        let decoded = self.context.decode(&mut self.batch);
        // An accelerator computes beside this thread.
        self.context.synchronize();
        let time = began.elapsed();
        // The first step of a turn also plans the computation.
        if !has_changed {
            self.turns.record(time);
        }
        if let Err(error) = decoded {
            self.status.end();
            return self.fail_all(&error.to_string());
        }
        for (sequence, tokens) in self.active.iter_mut().zip(&plan) {
            let end = sequence.computed + tokens;
            self.cache
                .extend(sequence.slot, &sequence.tokens[sequence.computed..end]);
            sequence.computed = end;
        }
        let times = divide_step(time, &pending, &planned, self.pace.speed());
        for (index, time) in in_turn.iter().zip(times) {
            self.active[*index].add_time(time);
        }
        self.take_logits(&wanted);
        self.status.end();
        if let Some(step) = step_tokens(&pending, &planned).filter(|_| !has_changed) {
            self.pace.learn(step, time);
        }
        if let Some(speed) = self.pace.speed() {
            self.status.set_reading_speed(speed);
        }
    }

    /// Puts the planned tokens into the batch, and returns those whose logits are needed.
    fn fill_batch(
        &mut self,
        plan: &[usize],
    ) -> Result<Vec<Wanted>, llama_cpp_2::llama_batch::BatchAddError> {
        self.batch.clear();
        let mut wanted = Vec::new();
        // llama.cpp computes sequences together whose ids follow each other in the batch.
        let mut by_slot: Vec<usize> = (0..self.active.len()).collect();
        by_slot.sort_unstable_by_key(|index| self.active[*index].slot);
        for index in by_slot {
            let (sequence, tokens) = (&self.active[index], plan[index]);
            for position in sequence.computed..sequence.computed + tokens {
                let needs_logits = sequence.needs_logits(position);
                if needs_logits {
                    wanted.push(Wanted {
                        sequence: index,
                        position,
                        output: self.batch.n_tokens(),
                    });
                }
                let token = LlamaToken(sequence.tokens[position].cast_signed());
                let slot = [sequence.slot as i32];
                self.batch
                    .add(token, position as i32, &slot, needs_logits)?;
            }
        }
        Ok(wanted)
    }

    /// Gives the logits of a step to their sequences, and removes those that have ended.
    fn take_logits(&mut self, wanted: &[Wanted]) {
        let mut ended = vec![false; self.active.len()];
        let end_tokens = &self.end_tokens;
        for token in wanted {
            let mut logits = self.context.get_logits_ith(token.output).to_vec();
            let sequence = &mut self.active[token.sequence];
            let is_end = |token| end_tokens.contains(&token);
            ended[token.sequence] |= sequence.take_logits(token.position, &mut logits, is_end);
        }
        let mut ended = ended.into_iter();
        let cache = &mut self.cache;
        self.active.retain(|sequence| {
            let has_ended = ended.next().unwrap_or(false);
            if has_ended {
                cache.end(sequence.slot);
            }
            !has_ended
        });
    }

    /// Ends all sequences with an error, and begins anew: what the context has is not known any more.
    fn fail_all(&mut self, problem: &str) {
        tracing::warn!(problem, "a step of the computation failed");
        for sequence in self.active.drain(..) {
            sequence.fail(RequestError::Engine(format!(
                "the engine cannot compute the answer: {problem}"
            )));
        }
        self.context.clear_kv_cache();
        self.cache.clear();
    }
}

fn pending(sequence: &Sequence) -> PendingTokens {
    PendingTokens {
        unread: sequence.unread(),
        is_scored: sequence.is_scored(),
    }
}

/// What a planned step computes. `None` if it scores a prompt, whose tokens take longer than others.
fn step_tokens(pending: &[PendingTokens], plan: &[usize]) -> Option<StepTokens> {
    let mut step = StepTokens {
        read: 0,
        written: 0,
    };
    for (sequence, tokens) in pending.iter().zip(plan) {
        match sequence.unread {
            0 => step.written += tokens,
            _ if sequence.is_scored && *tokens > 0 => return None,
            _ => step.read += tokens,
        }
    }
    Some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_that_scores_a_prompt_says_nothing_of_how_fast_others_are_read() {
        let pending = |unread, is_scored| PendingTokens { unread, is_scored };
        let sequences = [pending(0, false), pending(100, false), pending(50, true)];
        let step = step_tokens(&sequences, &[1, 40, 0]).unwrap();
        assert_eq!((step.read, step.written), (40, 1));
        assert!(step_tokens(&sequences, &[1, 40, 9]).is_none());
    }
}
