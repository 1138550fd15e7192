//! How many files the process may open.

/// Returns the limit on open files. `None` where it is not known.
pub(super) fn open_files() -> Option<usize> {
    parse(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

/// Reads the soft limit in the text of Linux's `/proc/self/limits`.
fn parse(limits: &str) -> Option<usize> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(usize::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_is_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max cpu time              unlimited            unlimited            seconds   \n\
            Max open files            1024                 524288               files     \n";
        assert_eq!(parse(limits), Some(1_024));
        assert_eq!(
            parse("Max open files unlimited unlimited files"),
            Some(usize::MAX)
        );
        assert_eq!(parse("nothing"), None);
    }
}
