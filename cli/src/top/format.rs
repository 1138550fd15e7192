//! Formatting of numbers with units, of times and of untrusted text.

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The text for an unknown value.
pub(super) const UNKNOWN: &str = "–";

/// SI prefixes with their factors, the largest first.
const SI_PREFIXES: [(f64, &str); 8] = [
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
];

/// Returns the text on one line, without characters that control a terminal. Names and problems come
/// from nodes, requested models from clients: neither is trusted.
pub(super) fn sanitize(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let replace = |c: char| match c {
        '\n' | '\t' => ' ',
        c if is_unsafe(c) => '\u{fffd}',
        c => c,
    };
    Cow::Owned(text.chars().map(replace).collect())
}

/// Whether a character is a control character, changes the writing direction, or has no width.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Formats a number with about three significant digits: 1,234; 12.3; 0.12.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return UNKNOWN.into();
    }
    let size = value.abs();
    if size >= 99.95 || size == 0.0 {
        return grouped(value.round() as u64);
    }
    let text = format!("{value:.*}", if size >= 9.995 { 1 } else { 2 });
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "0" {
        return "<0.01".into();
    }
    text.to_owned()
}

/// Formats a whole number with a comma between groups of three digits.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a whole number. One million and more have an SI prefix.
pub(super) fn count(value: u64) -> String {
    if value < 1_000_000 {
        return grouped(value);
    }
    si(value as f64, "")
}

/// Formats a quantity with an SI prefix: 0.00012 g is 120 µg.
pub(super) fn si(value: f64, unit: &str) -> String {
    if !value.is_finite() {
        return UNKNOWN.into();
    }
    let size = value.abs();
    // 999.5 and more would be rounded to 1,000.
    let fits = |(factor, _): &&(f64, &str)| size >= factor * 0.9995;
    let (factor, prefix) = match SI_PREFIXES.iter().find(fits) {
        _ if size == 0.0 => (1.0, ""),
        Some(prefix) => *prefix,
        None => SI_PREFIXES[7],
    };
    format!("{} {prefix}{unit}", number(value / factor))
        .trim_end()
        .to_owned()
}

/// Formats a number of milliseconds: 8.25 ms, 1.5 s, 2 min.
pub(super) fn millis(value: f64) -> String {
    if !value.is_finite() {
        return UNKNOWN.into();
    }
    if value < 999.5 {
        return format!("{} ms", number(value));
    }
    if value < 60_000.0 {
        return format!("{} s", number(value / 1e3));
    }
    duration(Duration::from_millis(value as u64))
}

/// Formats a duration: 5 s, 3 min, 2 h 5 min, 3 d 4 h.
///
/// `humantime` and `jiff` print every unit down to the second, but a column has room for only the two
/// largest.
pub(super) fn duration(value: Duration) -> String {
    let two_units = |large: u64, large_unit, small: u64, small_unit| match small {
        0 => format!("{large} {large_unit}"),
        small => format!("{large} {large_unit} {small} {small_unit}"),
    };
    let seconds = value.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => two_units(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => two_units(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// Puts `≈` before the text of a quantity that is estimated rather than measured.
pub(super) fn mark_estimate(text: String, estimated: bool) -> String {
    if estimated && text != UNKNOWN {
        return format!("≈{text}");
    }
    text
}

/// Formats the time of day in `time_zone` of a Unix timestamp in milliseconds.
pub(super) fn time_of_day(unix_ms: u64, time_zone: &TimeZone) -> String {
    let timestamp = i64::try_from(unix_ms).map(Timestamp::from_millisecond);
    match timestamp {
        Ok(Ok(timestamp)) => time_zone
            .to_datetime(timestamp)
            .strftime("%H:%M:%S")
            .to_string(),
        // A year after 9999.
        Ok(Err(_)) | Err(_) => UNKNOWN.into(),
    }
}

/// Splits a text into lines of at most `width` characters, between words where possible.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut rest: Vec<char> = text.chars().collect();
    let mut lines = Vec::new();
    while rest.len() > width {
        // Does not break in the indentation.
        let indent = rest.iter().take_while(|c| **c == ' ').count();
        let space = (indent + 1..=width).rev().find(|index| rest[*index] == ' ');
        let remainder = rest.split_off(space.unwrap_or(width));
        lines.push(rest.into_iter().collect());
        rest = remainder
            .into_iter()
            .skip(usize::from(space.is_some()))
            .collect();
    }
    lines.push(rest.into_iter().collect());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sanitized_text_has_no_control_characters() {
        assert_eq!(sanitize("till-7"), "till-7");
        assert_eq!(
            sanitize("a\u{1b}[31mb\u{7}\r"),
            "a\u{fffd}[31mb\u{fffd}\u{fffd}"
        );
        assert_eq!(sanitize("a\nb\tc"), "a b c");
        assert_eq!(sanitize("\u{9b}2J\u{202e}x"), "\u{fffd}2J\u{fffd}x");
    }

    #[test]
    fn numbers_have_about_three_significant_digits() {
        for (value, text) in [
            (0.0, "0"),
            (0.001, "<0.01"),
            (0.123, "0.12"),
            (2.0, "2"),
            (12.34, "12.3"),
            (99.97, "100"),
            (1234.0, "1,234"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            (count(999_999), count(12_345_678)),
            ("999,999".into(), "12.3 M".into())
        );
        assert_eq!(si(0.000_12, "g"), "120 µg");
        assert_eq!(
            (si(0.0, "J"), si(1e-12, "J")),
            ("0 J".into(), "<0.01 nJ".into())
        );
        assert_eq!(
            (millis(3.456), millis(61_000.0)),
            ("3.46 ms".into(), "1 min".into())
        );
    }

    #[test]
    fn long_text_is_wrapped_between_words() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("one two", 7), ["one two"]);
        assert_eq!(wrap("  unbroken", 4), ["  un", "brok", "en"]);
        assert_eq!(wrap("", 0), [""]);
    }

    #[test]
    fn durations_have_at_most_two_units() {
        for (seconds, text) in [
            (5, "5 s"),
            (130, "2 min"),
            (7_500, "2 h 5 min"),
            (86_400, "1 d"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn time_of_day_is_in_the_readers_time_zone() {
        let hawaii = TimeZone::fixed(jiff::tz::offset(-10));
        assert_eq!(time_of_day(1_795_598_240_676, &TimeZone::UTC), "09:17:20");
        assert_eq!(time_of_day(1_795_598_240_676, &hawaii), "23:17:20");
        assert_eq!(time_of_day(u64::MAX, &TimeZone::UTC), UNKNOWN);
    }
}
