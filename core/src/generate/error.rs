//! Why a request was not answered, in the words every layer shares.

use std::time::Duration;

/// Why a request was not answered. Each variant is one thing a caller can act on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No such model in the fleet.
    #[error("The model '{0}' does not exist.")]
    ModelNotFound(String),
    /// No such task in the fleet.
    #[error("The task '{0}' does not exist.")]
    TaskNotFound(String),
    /// The request fits no task.
    #[error("{0}")]
    NoTask(String),
    /// A privacy zone that the request may not enter.
    #[error("{0}")]
    ZoneForbidden(String),
    /// A field of the request is wrong.
    #[error("{message}")]
    Invalid {
        /// The field, such as `messages[0].role`.
        param: Option<String>,
        message: String,
    },
    /// The prompt does not fit the model's context.
    #[error("{0}")]
    ContextLength(String),
    /// Every replica is full. Trying again after the given time may help.
    #[error("{message}")]
    Overloaded {
        message: String,
        retry_after: Duration,
    },
    /// The model is known but no replica can answer now.
    #[error("{0}")]
    Unavailable(String),
    /// The node or the connection to it was lost while it answered.
    #[error("{0}")]
    NodeLost(String),
    /// The answer did not begin in time.
    #[error("{0}")]
    Timeout(String),
    /// The request's own deadline cannot be met, or has passed.
    #[error("{0}")]
    DeadlineUnmet(String),
    /// Nobody who could answer keeps the limits of the request or of its task.
    #[error("{0}")]
    LimitsUnmet(String),
    /// The engine failed.
    #[error("{0}")]
    Engine(String),
}

impl RequestError {
    /// A wrong field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            param: Some(param.into()),
            message: message.into(),
        }
    }

    /// It in a word, for what counts errors.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ModelNotFound(_) => "model_not_found",
            Self::TaskNotFound(_) => "task_not_found",
            Self::NoTask(_) => "no_task",
            Self::ZoneForbidden(_) => "zone_forbidden",
            Self::Invalid { .. } => "invalid_request",
            Self::ContextLength(_) => "context_length",
            Self::Overloaded { .. } => "overloaded",
            Self::Unavailable(_) => "unavailable",
            Self::NodeLost(_) => "node_lost",
            Self::Timeout(_) => "timeout",
            Self::DeadlineUnmet(_) => "deadline_unmet",
            Self::LimitsUnmet(_) => "limits_unmet",
            Self::Engine(_) => "engine",
        }
    }

    /// It as it goes on record. A server's own words may hold what was asked, which is not told of requests
    /// that are `held` to privacy zones.
    #[must_use]
    pub fn recorded_text(&self, held: bool) -> String {
        if held {
            self.kind().to_owned()
        } else {
            self.to_string()
        }
    }

    /// Whether it speaks against the replica rather than the request: what its breaker counts.
    #[must_use]
    pub fn is_replica_fault(&self) -> bool {
        matches!(self, Self::NodeLost(_) | Self::Timeout(_) | Self::Engine(_))
    }

    /// Whether another replica may do better. Only to be acted on before the first byte of
    /// the answer went out.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Overloaded { .. } | Self::Unavailable(_) | Self::NodeLost(_)
        )
    }
}
