//! The fields that identify a completion.

use flotilla_telemetry::clock::unix_seconds;

/// Identifies one completion in its response or in all of its chunks.
pub(crate) struct CompletionId {
    /// Random id with the prefix of the kind of completion.
    pub(crate) id: String,
    /// Time of the answer, in seconds since the Unix epoch.
    pub(crate) created: u64,
    /// Name of the model that answers.
    pub(crate) model: String,
}

impl CompletionId {
    /// Creates a random id that starts with `prefix`: `chatcmpl` or `cmpl`, as OpenAI's do.
    pub(crate) fn new(prefix: &str, model: String) -> Self {
        Self {
            id: format!(
                "{prefix}-{:016x}{:08x}",
                fastrand::u64(..),
                fastrand::u32(..)
            ),
            created: unix_seconds(),
            model,
        }
    }
}
