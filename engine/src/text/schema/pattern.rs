//! Judges regular expressions of schemas.

use llguidance::{derivre::RegexBuilder, regex_to_lark};

/// Whether the grammar can enforce a pattern: `false` if it uses what the grammar lacks, such as
/// look-around, or is no regular expression. How long this takes grows with [`expanded_size`].
pub(super) fn is_supported(pattern: &str) -> bool {
    // The compiler may panic at patterns that it does not expect.
    let parsed = std::panic::catch_unwind(|| {
        RegexBuilder::new().mk_regex_for_serach(&regex_to_lark(pattern, "dw"))
    });
    matches!(parsed, Ok(Ok(_)))
}

/// Estimates how many characters a pattern has when its repetitions are written out.
pub(super) fn expanded_size(pattern: &str) -> u64 {
    // The sizes of the open groups, the outermost first, and that of the last element of each.
    let mut groups = vec![(0_u64, 0_u64)];
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        if c == '\\' {
            chars.next();
        } else if in_class {
            in_class = c != ']';
            continue;
        } else if c == '(' {
            groups.push((0, 0));
            continue;
        } else if c == '{' {
            let mut inside = String::new();
            while let Some(next) = chars.next_if(|next| *next != '}') {
                inside.push(next);
            }
            chars.next();
            let largest = inside
                .split(',')
                .filter_map(|n| n.trim().parse::<u64>().ok())
                .max();
            if let (Some(times), Some((size, last))) = (largest, groups.last_mut()) {
                *size = size.saturating_add(last.saturating_mul(times.saturating_sub(1)));
                *last = last.saturating_mul(times.max(1));
            }
            continue;
        }
        in_class = c == '[';
        let closed = (c == ')' && groups.len() > 1)
            .then(|| groups.pop())
            .flatten();
        let size = closed.map_or(1, |(size, _)| size.max(1));
        if let Some((total, last)) = groups.last_mut() {
            *total = total.saturating_add(size);
            *last = size;
        }
    }
    groups
        .iter()
        .fold(0, |sum, (size, _)| sum.saturating_add(*size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_multiply() {
        assert_eq!(expanded_size("abc"), 3);
        assert_eq!(expanded_size("a{10}"), 10);
        assert_eq!(expanded_size("(ab){10}c"), 21);
        assert_eq!(expanded_size("((a{100}){100}){100}"), 1_000_000);
        assert_eq!(expanded_size(r"[a-z{9}]{2,5}\{7\}"), 5 + 3);
        assert_eq!(expanded_size("a{99999999999999999999}"), 1);
        assert_eq!(
            expanded_size("(a{4000000000}){4000000000}{4000000000}"),
            u64::MAX
        );
    }

    #[test]
    fn pattern_that_the_grammar_lacks_is_found() {
        assert!(is_supported(r"^\d{4}-[a-z]+$"));
        for pattern in ["^(?=a)b", "(?!x)y", "(?<=a)b", r"(a)\1", "(", "[z-a]"] {
            assert!(!is_supported(pattern), "{pattern}");
        }
    }
}
