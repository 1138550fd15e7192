//! The errors of requests, which all layers share.

use std::time::Duration;

use crate::{ModelName, TaskName};

/// Why a request was not answered. Each variant is something that a caller can act on differently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The fleet has no such model. Contains the requested name.
    #[error("The model '{0}' does not exist: `GET /v1/models` lists those that do.")]
    ModelNotFound(String),
    /// The fleet has no such task. Contains the requested name.
    #[error("The task '{0}' does not exist: `GET /v1/models` lists those that do.")]
    TaskNotFound(String),
    /// The request belongs to no task, and there is no default task.
    #[error("{0}")]
    NoTask(String),
    /// The request asks for a privacy zone that it may not enter.
    #[error("{0}")]
    ZoneForbidden(String),
    /// The sender of the request may not use the model or the task.
    #[error("{0}")]
    OutsideScope(String),
    /// A field of the request is invalid.
    #[error("{message}")]
    Invalid {
        /// The field, such as `messages[0].role`. `None` if the request as a whole is invalid.
        param: Option<String>,
        /// What is wrong with it.
        message: String,
    },
    /// The prompt does not fit into the model's context.
    #[error("{0}")]
    ContextLength(String),
    /// The request has more bytes than the server that computes the answers takes.
    #[error("{0}")]
    TooLarge(String),
    /// Every replica is full.
    #[error("{message}")]
    Overloaded {
        /// Which queues are full.
        message: String,
        /// Time after which a retry may succeed.
        retry_after: Duration,
    },
    /// This controller does not know yet which models there are.
    #[error("{0}")]
    NotReady(String),
    /// The model is known, but no replica can answer now.
    #[error("{message}")]
    Unavailable {
        /// Why none can.
        message: String,
        /// Time after which a retry may succeed. `None` if it is not known.
        retry_after: Option<Duration>,
    },
    /// The node, or the connection to it, was lost during the request.
    #[error("{0}")]
    NodeLost(String),
    /// The answer did not begin within the timeout.
    #[error("{0}")]
    Timeout(String),
    /// The answer had begun, or could begin only late, and was not complete within the time for a whole
    /// answer.
    #[error("{0}")]
    AnswerTimeout(String),
    /// The request's own deadline has passed or cannot be met.
    #[error("{0}")]
    DeadlineUnmet(String),
    /// No replica that could answer keeps the limits of the request or of its task.
    #[error("{0}")]
    LimitsUnmet(String),
    /// The engine failed.
    #[error("{0}")]
    Engine(String),
    /// The server that computes the model's answers failed, or its answer is invalid.
    #[error("{0}")]
    Upstream(String),
    /// The server that computes the model's answers cannot be reached, or closed the connection before it
    /// answered. Another replica may have a server of its own.
    #[error("{0}")]
    UpstreamUnreachable(String),
}

impl RequestError {
    /// The error for an invalid field `param`.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid {
            param: Some(param.into()),
            message: message.into(),
        }
    }

    /// The error for a sender that may not use a model, whether there is one of this name or not.
    #[must_use]
    pub fn model_outside_scope(name: &ModelName) -> Self {
        Self::OutsideScope(format!(
            "The API key may not use the model '{name}': `GET /v1/models` lists what it may use."
        ))
    }

    /// The error for a sender that may not use a task, whether there is one of this name or not.
    #[must_use]
    pub fn task_outside_scope(name: &TaskName) -> Self {
        Self::OutsideScope(format!(
            "The API key may not use the task '{name}': `GET /v1/models` lists what it may use."
        ))
    }

    /// The error for a model without a replica that can answer now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable {
            message: message.into(),
            retry_after: None,
        }
    }

    /// The error type in metrics and records.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ModelNotFound(_) => "model_not_found",
            Self::TaskNotFound(_) => "task_not_found",
            Self::NoTask(_) => "no_task",
            Self::ZoneForbidden(_) => "zone_forbidden",
            Self::OutsideScope(_) => "outside_scope",
            Self::Invalid { .. } => "invalid_request",
            Self::ContextLength(_) => "context_length",
            Self::TooLarge(_) => "too_large",
            Self::Overloaded { .. } => "overloaded",
            Self::NotReady(_) => "not_ready",
            Self::Unavailable { .. } => "unavailable",
            Self::NodeLost(_) => "node_lost",
            Self::Timeout(_) => "timeout",
            Self::AnswerTimeout(_) => "answer_timeout",
            Self::DeadlineUnmet(_) => "deadline_unmet",
            Self::LimitsUnmet(_) => "limits_unmet",
            Self::Engine(_) => "engine",
            Self::Upstream(_) => "upstream",
            Self::UpstreamUnreachable(_) => "upstream_unreachable",
        }
    }

    /// The text of the error in records. Messages of servers may contain parts of the prompt, so the
    /// text is only the error type if the request is `held` to privacy zones.
    #[must_use]
    pub fn recorded_text(&self, held: bool) -> String {
        if held {
            self.kind().to_owned()
        } else {
            self.to_string()
        }
    }

    /// Whether the replica is at fault rather than the request: its circuit breaker counts these errors. An
    /// answer that is too long for its time is no fault.
    #[must_use]
    pub fn is_replica_fault(&self) -> bool {
        matches!(
            self,
            Self::NodeLost(_)
                | Self::Timeout(_)
                | Self::Engine(_)
                | Self::Upstream(_)
                | Self::UpstreamUnreachable(_)
        )
    }

    /// Whether the model is at fault: its engine, its process or the answer of its upstream server. A server
    /// that cannot be reached and an answer that does not begin in time are faults of the replica alone.
    #[must_use]
    pub fn is_model_fault(&self) -> bool {
        self.is_replica_fault() && !matches!(self, Self::Timeout(_) | Self::UpstreamUnreachable(_))
    }

    /// Whether another replica may answer instead, as long as no part of the answer has been sent to
    /// the client.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Overloaded { .. }
                | Self::Unavailable { .. }
                | Self::NodeLost(_)
                | Self::UpstreamUnreachable(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_is_at_fault_for_its_engine_and_not_for_the_way_to_it_or_the_request() {
        let text = String::new;
        for error in [
            RequestError::Engine(text()),
            RequestError::NodeLost(text()),
            RequestError::Upstream(text()),
        ] {
            assert!(error.is_model_fault() && error.is_replica_fault());
        }
        for error in [
            RequestError::UpstreamUnreachable(text()),
            RequestError::Timeout(text()),
        ] {
            assert!(!error.is_model_fault() && error.is_replica_fault());
        }
        assert!(!RequestError::invalid("n", "").is_model_fault());
    }
}
