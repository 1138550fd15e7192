//! Why a prompt or an answer that a task learns from was not kept.

/// Why a prompt or an answer that a task learns from was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// Too many records wait to be written.
    QueueFull,
    /// The prompt or the answer is too long.
    TooLarge,
    /// The disk has refused the record.
    DiskFailed,
}

impl DropReason {
    /// The value of the attribute `error.type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLarge => "too_large",
            Self::DiskFailed => "disk_failed",
        }
    }
}
