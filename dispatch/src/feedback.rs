//! Feedback of clients on answered requests.

use std::sync::Arc;

use flotilla_core::TaskName;
use flotilla_core::dataset::Feedback;
use flotilla_core::spec::LearnSource;

use crate::stored_decision::RecordState;
use crate::{Dispatcher, TaskView};

/// Why feedback is not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedbackError {
    /// This controller has not made the decision, or does not have its record any more.
    #[error(
        "There is no decision '{0}': each controller keeps its last ones only, until it stops."
    )]
    DecisionNotFound(String),
    /// The prompt of the decision is not in memory.
    #[error(
        "The prompt of the decision '{0}' is not held any more: give feedback sooner, as each controller holds its newest prompts only."
    )]
    PromptNotHeld(String),
    /// The request names a model, so that it has no task to learn.
    #[error("The request of the decision '{0}' has no task: only tasks learn from feedback.")]
    NoTask(String),
    /// The task of the request does not learn from feedback.
    #[error(
        "The task '{0}' does not learn from feedback: set its spec.learn.from to feedback first."
    )]
    NotLearning(TaskName),
    /// The request, or the task that it belongs to, is held to privacy zones.
    #[error("The request is held to privacy zones: nothing is kept of it.")]
    HeldToZones,
    /// The feedback names a task that does not exist.
    #[error("There is no task '{0}': `flotilla get tasks` lists them.")]
    TaskNotFound(TaskName),
    /// Too many records wait to be written.
    #[error("The controller cannot write feedback as fast as it comes: try again.")]
    Overloaded,
}

impl Dispatcher {
    /// Keeps the prompt of a decision of this controller with `feedback`, which replaces earlier feedback on
    /// the decision. The record is handed over to be written, and not waited for.
    ///
    /// # Errors
    /// [`FeedbackError`]; nothing is kept then.
    pub fn give_feedback(&self, id: &str, feedback: Feedback) -> Result<(), FeedbackError> {
        let decisions = &self.context.decisions;
        let stored = decisions.stored(id);
        let stored = stored.ok_or_else(|| FeedbackError::DecisionNotFound(id.into()))?;
        let decision = &stored.decision;
        let name = decision.task.as_ref();
        let name = name.ok_or_else(|| FeedbackError::NoTask(id.into()))?;
        let view = self.context.view.peek();
        let tasks = &view.routing.tasks;
        if !decision.zones.is_empty() {
            return Err(FeedbackError::HeldToZones);
        }
        let answered_for = tasks.get(name);
        let marked_with = match &feedback {
            Feedback::Task(marked) => {
                let view = tasks.get(marked);
                Some(view.ok_or_else(|| FeedbackError::TaskNotFound(marked.clone()))?)
            }
            Feedback::Good(_) => None,
        };
        let has_zones = |view: &Arc<TaskView>| !view.task.spec.zones.is_empty();
        // Locked to the end, so that neither other feedback nor the end of the answer comes between.
        let mut state = stored.record.lock();
        if answered_for.is_some_and(has_zones) || marked_with.is_some_and(has_zones) {
            // What was kept before anybody knew must not stay.
            decisions.held_prompts().remove(stored.number);
            let is_kept = matches!(*state, RecordState::Kept(_));
            if is_kept && !self.context.observer.datasets.remove(name, id) {
                return Err(FeedbackError::Overloaded);
            }
            *state = RecordState::Forbidden;
        }
        if matches!(*state, RecordState::Forbidden) {
            return Err(FeedbackError::HeldToZones);
        }
        let learn = answered_for.and_then(|view| view.task.spec.learn.as_ref());
        let learn = learn
            .filter(|learn| learn.learns_from(LearnSource::Feedback))
            .ok_or_else(|| FeedbackError::NotLearning(name.clone()))?;
        let held = decisions.held_prompts().get(stored.number);
        let held = held.ok_or_else(|| FeedbackError::PromptNotHeld(id.into()))?;
        let answer = held.answer.map(|answer| answer.to_string());
        let record = held.prompt.record(decision, id, stored.at, answer);
        let record = record.with_feedback(feedback.clone());
        if !self.context.observer.keep_record(record, learn.keep) {
            return Err(FeedbackError::Overloaded);
        }
        *state = RecordState::Kept(Some(feedback));
        Ok(())
    }

    /// Forgets the prompts of a task that are held until feedback comes.
    pub fn forget_prompts(&self, task: &TaskName) {
        self.context.decisions.held_prompts().remove_task(task);
    }
}
