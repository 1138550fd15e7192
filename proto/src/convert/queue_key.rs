//! The queue key of a request, with its deadline.

use std::time::Duration;

use flotilla_core::admission::{Priority, QueueKey};

use crate::v1;

/// Returns the message of a queue key and a deadline, which is rounded down to milliseconds.
pub(super) fn queue_key_message(queue_key: QueueKey, deadline: Option<Duration>) -> v1::QueueKey {
    let priority = match queue_key.priority {
        Priority::Low => v1::Priority::Low,
        Priority::Normal => v1::Priority::Normal,
        Priority::High => v1::Priority::High,
    };
    v1::QueueKey {
        priority: priority.into(),
        fairness_key: queue_key.fairness_key,
        deadline_ms: deadline.map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX)),
    }
}

/// Returns the queue key and the deadline of a message. An unknown priority is read as normal.
pub(super) fn parse_queue_key(message: Option<v1::QueueKey>) -> (QueueKey, Option<Duration>) {
    let message = message.unwrap_or_default();
    let priority = match message.priority() {
        v1::Priority::Low => Priority::Low,
        v1::Priority::Normal => Priority::Normal,
        v1::Priority::High => Priority::High,
    };
    let queue_key = QueueKey {
        priority,
        fairness_key: message.fairness_key,
    };
    let deadline = message.deadline_ms;
    (
        queue_key,
        deadline.map(|ms| Duration::from_millis(ms.into())),
    )
}
