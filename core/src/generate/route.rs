//! Where a request may be sent, and what it requires of the answer.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::RequestError;
use crate::access::AccessScope;
use crate::admission::{FairnessKey, Priority};
use crate::routing::AnswerLimits;
use crate::{ModelName, TaskName, ZoneName};

/// The model or task that a client names in the `model` field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTarget {
    /// `NAME`: the model of this name.
    Model(ModelName),
    /// `task:NAME`: the best model for this task.
    Task(TaskName),
    /// `auto`: the best model for the task that the request belongs to.
    Auto,
}

/// Where a request may be sent, and what it requires of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The requested model or task.
    pub target: RouteTarget,
    /// The privacy zone whose nodes may answer. `None` for those that the task allows.
    pub zone: Option<ZoneName>,
    /// What the sender's requests may use. The request's own fields only narrow it.
    pub access: Arc<AccessScope>,
    /// The priority in queues. `None` for that of the task.
    pub priority: Option<Priority>,
    /// The fairness key (usually a hash of the API key); 0 for anonymous requests.
    pub fairness_key: FairnessKey,
    /// The time from the request's arrival within which the answer must be complete. `None` for no
    /// deadline.
    pub deadline: Option<Duration>,
    /// Limits in addition to those of the task.
    pub limits: AnswerLimits,
    /// A hash of the session id: requests of a session prefer the replica that answered the last one.
    pub session: Option<u64>,
}

impl Route {
    /// A route to the target without further requirements.
    #[must_use]
    pub fn new(target: RouteTarget) -> Self {
        Self {
            target,
            zone: None,
            access: Arc::default(),
            priority: None,
            fairness_key: 0,
            deadline: None,
            limits: AnswerLimits::default(),
            session: None,
        }
    }
}

impl RouteTarget {
    /// Parses the `model` field.
    ///
    /// # Errors
    /// [`RequestError::ModelNotFound`] or [`RequestError::TaskNotFound`] if the name is not a valid one.
    pub fn parse(model: &str) -> Result<Self, RequestError> {
        if model == "auto" {
            return Ok(Self::Auto);
        }
        if let Some(task) = model.strip_prefix("task:") {
            return TaskName::new(task)
                .map(Self::Task)
                .map_err(|_| RequestError::TaskNotFound(task.to_owned()));
        }
        ModelName::new(model)
            .map(Self::Model)
            .map_err(|_| RequestError::ModelNotFound(model.to_owned()))
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model(name) => fmt::Display::fmt(name, f),
            Self::Task(name) => write!(f, "task:{name}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_field_names_a_model_a_task_or_auto() {
        for text in ["auto", "task:banking", "support-intent"] {
            assert_eq!(RouteTarget::parse(text).unwrap().to_string(), text);
        }
        assert!(matches!(
            RouteTarget::parse("task:No Such"),
            Err(RequestError::TaskNotFound(name)) if name == "No Such"
        ));
        assert!(matches!(
            RouteTarget::parse("no/such"),
            Err(RequestError::ModelNotFound(_))
        ));
    }
}
