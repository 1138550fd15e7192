//! Whom a request is for.

use std::fmt;
use std::time::Duration;

use super::RequestError;
use crate::admission::{FairnessKey, Priority};
use crate::routing::AnswerLimits;
use crate::{ModelName, TaskName, ZoneName};

/// What a client puts into the `model` field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteTarget {
    /// `NAME`: this model.
    Model(ModelName),
    /// `task:NAME`: the best model for this task.
    Task(TaskName),
    /// `auto`: the best model for the task that the request belongs to.
    Auto,
}

/// Whom a request is for, where it may go and what it asks of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub target: RouteTarget,
    /// Only nodes in this privacy zone.
    pub zone: Option<ZoneName>,
    /// `None`: as its task says.
    pub priority: Option<Priority>,
    /// Whom it is of: those of one share a turn in queues.
    pub fairness_key: FairnessKey,
    /// Within what time of its arrival the answer must be complete.
    pub deadline: Option<Duration>,
    /// On top of those of its task.
    pub limits: AnswerLimits,
    /// Stands for the session that it belongs to: where it was before it goes again.
    pub session: Option<u64>,
}

impl Route {
    /// A request that says nothing but whom it is for.
    #[must_use]
    pub fn new(target: RouteTarget) -> Self {
        Self {
            target,
            zone: None,
            priority: None,
            fairness_key: 0,
            deadline: None,
            limits: AnswerLimits::default(),
            session: None,
        }
    }
}

impl RouteTarget {
    /// Reads the `model` field.
    ///
    /// # Errors
    /// What no model or task can be called is answered as what does not exist.
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
    fn the_model_field_names_a_model_a_task_or_neither() {
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
