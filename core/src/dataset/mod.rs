//! What the fleet keeps of a task's prompts and answers, if the task's owner wants it, and what can be
//! learned from them.
//!
//! [`DatasetRecord`] is one prompt with its answer, [`newest()`] says which records are kept, and
//! [`suggest_examples`] which prompts are worth adding to a task's examples.

mod feedback;
mod newest;
mod record;
mod suggestion;

pub use feedback::Feedback;
pub use newest::newest;
pub use record::{DatasetMessage, DatasetRecord};
pub use suggestion::{
    ExampleSuggestion, SuggestionCandidate, SuggestionReason, newest_text, suggest_examples,
};
