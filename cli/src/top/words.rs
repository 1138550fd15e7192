//! Numbers as people read them, with their unit, and texts that others wrote.

use std::borrow::Cow;
use std::time::Duration;

/// What is not known.
pub(super) const NONE: &str = "–";

const PREFIXES: [(f64, &str); 8] = [
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
];

/// A text of one line that does nothing to a terminal: names and problems come from nodes, and what
/// is asked for comes from clients.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let replace = |c: char| match c {
        '\n' | '\t' => ' ',
        c if harmful(c) => '\u{fffd}',
        c => c,
    };
    Cow::Owned(text.chars().map(replace).collect())
}

/// Control characters, and those that change the order of others or take no room.
fn harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// About three digits that count: 1,234; 12.3; 0.12.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return NONE.into();
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

fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A whole number; a large one with a prefix.
pub(super) fn count(value: u64) -> String {
    if value < 1_000_000 {
        return grouped(value);
    }
    si(value as f64, "")
}

/// With a prefix: 0.00012 g is 120 µg.
pub(super) fn si(value: f64, unit: &str) -> String {
    if !value.is_finite() {
        return NONE.into();
    }
    let size = value.abs();
    let fits = |(factor, _): &&(f64, &str)| size >= factor * 0.9995;
    let (factor, prefix) = match PREFIXES.iter().find(fits) {
        _ if size == 0.0 => (1.0, ""),
        Some(found) => *found,
        None => PREFIXES[7],
    };
    format!("{} {prefix}{unit}", number(value / factor))
        .trim_end()
        .to_owned()
}

/// Milliseconds.
pub(super) fn millis(value: f64) -> String {
    if !value.is_finite() {
        return NONE.into();
    }
    if value < 999.5 {
        return format!("{} ms", number(value));
    }
    if value < 60_000.0 {
        return format!("{} s", number(value / 1e3));
    }
    duration(Duration::from_millis(value as u64))
}

/// How long: 5 s, 3 min, 2 h 5 min, 3 d 4 h.
pub(super) fn duration(value: Duration) -> String {
    let with = |whole: u64, unit, rest: u64, smaller| match rest {
        0 => format!("{whole} {unit}"),
        rest => format!("{whole} {unit} {rest} {smaller}"),
    };
    let seconds = value.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => with(seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => with(seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    }
}

/// A quantity that says where it is not measured.
pub(super) fn measured(text: String, estimated: bool) -> String {
    if estimated && text != NONE {
        return format!("≈{text}");
    }
    text
}

/// The time of day, `offset` seconds east of Greenwich, of milliseconds since 1970.
pub(super) fn clock(at: u64, offset: i64) -> String {
    let seconds = (at / 1_000).saturating_add_signed(offset) % 86_400;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// A text in lines of at most `width` characters, broken between words where there are some.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut rest: Vec<char> = text.chars().collect();
    let mut lines = Vec::new();
    while rest.len() > width {
        // Blanks at the beginning are there to set the line off.
        let indent = rest.iter().take_while(|c| **c == ' ').count();
        let blank = (indent + 1..=width).rev().find(|at| rest[*at] == ' ');
        let more = rest.split_off(blank.unwrap_or(width));
        lines.push(rest.into_iter().collect());
        rest = more
            .into_iter()
            .skip(usize::from(blank.is_some()))
            .collect();
    }
    lines.push(rest.into_iter().collect());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_does_nothing_to_a_terminal() {
        assert_eq!(clean("till-7"), "till-7");
        assert_eq!(
            clean("a\u{1b}[31mb\u{7}\r"),
            "a\u{fffd}[31mb\u{fffd}\u{fffd}"
        );
        assert_eq!(clean("a\nb\tc"), "a b c");
        assert_eq!(clean("\u{9b}2J\u{202e}x"), "\u{fffd}2J\u{fffd}x");
    }

    #[test]
    fn numbers_have_about_three_digits() {
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
    fn long_texts_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 8), ["one two", "three"]);
        assert_eq!(wrapped("one two", 7), ["one two"]);
        assert_eq!(wrapped("  unbroken", 4), ["  un", "brok", "en"]);
        assert_eq!(wrapped("", 0), [""]);
    }

    #[test]
    fn times_are_told_as_people_say_them() {
        for (seconds, text) in [
            (5, "5 s"),
            (130, "2 min"),
            (7_500, "2 h 5 min"),
            (86_400, "1 d"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(clock(1_795_598_240_676, 0), "09:17:20");
        assert_eq!(clock(1_795_598_240_676, -36_000), "23:17:20");
    }
}
