//! What the last requests to a replica said, for people: a replica may be ready and still fail all of
//! them, such as one of a server that refuses its key.

/// The largest number of characters of [`FailingRequests::last_error`].
const MAX_ERROR_CHARS: usize = 200;

/// The requests that a replica failed since its last answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingRequests {
    /// The number of requests.
    pub count: u32,
    /// The first line of the last error; only its kind if the request was held to privacy zones.
    pub last_error: String,
}

impl FailingRequests {
    /// Returns the failing requests after one more, which failed with `error`.
    pub(crate) fn after(before: Option<Self>, error: &str) -> Self {
        let line = error.lines().next().unwrap_or_default();
        Self {
            count: before.map_or(0, |before| before.count).saturating_add(1),
            last_error: line.chars().take(MAX_ERROR_CHARS).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_and_the_last_error_is_kept_in_one_short_line() {
        let first = FailingRequests::after(None, "HTTP 401\nno key");
        assert_eq!((first.count, first.last_error.as_str()), (1, "HTTP 401"));
        let second = FailingRequests::after(Some(first), &"é".repeat(999));
        assert_eq!(second.count, 2);
        assert_eq!(second.last_error.chars().count(), MAX_ERROR_CHARS);
    }
}
