//! Converts messages to core types and back, one file for each family of messages. Received messages are
//! validated: an invalid message of a newer or faulty peer is an error, never a panic.

mod artifact;
mod embed;
mod energy;
mod event;
mod file_defaults;
mod queue_key;
mod request;
mod same_fields;
#[cfg(test)]
mod tests;

use flotilla_core::ModelName;

pub use request::generate_request;

/// The error for a message that cannot be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A required field is missing.
    #[error("field '{0}' is missing")]
    Missing(&'static str),
    /// A field has an invalid value.
    #[error("field '{field}' {reason}")]
    Invalid {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with the value, as a predicate.
        reason: String,
    },
}

impl From<ConvertError> for tonic::Status {
    fn from(error: ConvertError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// Parses the field `model` of a request.
fn model_name(name: &str) -> Result<ModelName, ConvertError> {
    ModelName::new(name).map_err(|e| ConvertError::Invalid {
        field: "model",
        reason: e.to_string(),
    })
}
