//! How well a model does a task, measured: whether an answer is right, and what a number of right
//! answers is worth.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// When an answer counts as right.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scoring {
    /// It is the expected text, but for blanks around it.
    Exact,
    /// It names the expected label: its first line, whatever the case, with blanks, `_` and `-`
    /// as one, without quotes and full stops around it.
    Label,
    /// It is JSON with every expected field. Numbers are compared by value.
    Json,
    /// Its last number is the expected one, within this part of it.
    Numeric { tolerance: f64 },
}

impl Scoring {
    /// Whether `answer` is right where `expected` is.
    #[must_use]
    pub fn is_correct(self, expected: &Value, answer: &str) -> bool {
        match self {
            Self::Exact => text(expected).trim() == answer.trim(),
            Self::Label => label(&text(expected)) == label(answer),
            Self::Json => json(expected, answer),
            Self::Numeric { tolerance } => {
                let expected = match expected {
                    Value::Number(number) => number.as_f64(),
                    other => last_number(&text(other)),
                };
                match (expected, last_number(answer)) {
                    (Some(expected), Some(found)) => {
                        (found - expected).abs() <= tolerance * expected.abs()
                    }
                    _ => false,
                }
            }
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn label(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let name = line.trim_matches(|c: char| c.is_whitespace() || "\"'`.*".contains(c));
    let words = name.split(|c: char| c.is_whitespace() || c == '_' || c == '-');
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ").to_lowercase()
}

fn json(expected: &Value, answer: &str) -> bool {
    // Models like to fence their JSON.
    let answer = answer.trim();
    let inner = answer.strip_prefix("```").and_then(|rest| {
        let rest = rest.strip_prefix("json").unwrap_or(rest);
        rest.strip_suffix("```")
    });
    let found: Option<Value> = serde_json::from_str(inner.unwrap_or(answer)).ok();
    let parsed = match expected {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    };
    match (parsed, found) {
        (Some(expected), Some(found)) => holds(&found, &expected),
        _ => false,
    }
}

/// Whether `found` has everything that is expected.
fn holds(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => expected
            .iter()
            .all(|(name, value)| found.get(name).is_some_and(|found| holds(found, value))),
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| holds(f, e))
        }
        (Value::Number(found), Value::Number(expected)) => found.as_f64() == expected.as_f64(),
        (found, expected) => found == expected,
    }
}

/// The last number in a text, which may have thousands separated by commas.
fn last_number(text: &str) -> Option<f64> {
    let parts = text.split(|c: char| !(c.is_ascii_digit() || ".,-+eE".contains(c)));
    let mut numbers = parts.rev().filter_map(|part| {
        let part = part.trim_matches(|c| ".,".contains(c)).replace(',', "");
        let number: f64 = part.parse().ok()?;
        number.is_finite().then_some(number)
    });
    numbers.next()
}

/// So many right ones of so many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proportion {
    pub correct: u32,
    pub total: u32,
}

/// The two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.959_964;

impl Proportion {
    /// Counts one more.
    pub fn record(&mut self, correct: bool) {
        self.correct += u32::from(correct);
        self.total += 1;
    }

    /// The part that is right; 0 of none.
    #[must_use]
    pub fn rate(self) -> f64 {
        f64::from(self.correct) / f64::from(self.total.max(1))
    }

    /// Between what the true rate lies with 95 % confidence: Wilson's score interval (Wilson,
    /// "Probable Inference, the Law of Succession, and Statistical Inference", 1927).
    #[must_use]
    pub fn confidence_interval(self) -> (f64, f64) {
        if self.total == 0 {
            return (0.0, 1.0);
        }
        let (n, p) = (f64::from(self.total), self.rate());
        let middle = p + Z * Z / (2.0 * n);
        let reach = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        let within = |x: f64| (x / scale).clamp(0.0, 1.0);
        (within(middle - reach), within(middle + reach))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn each_scoring_says_what_is_right() {
        let right =
            |scoring: Scoring, expected: Value, answer| scoring.is_correct(&expected, answer);
        assert!(right(
            Scoring::Exact,
            json!("card_arrival"),
            " card_arrival\n"
        ));
        assert!(!right(
            Scoring::Exact,
            json!("card_arrival"),
            "Card arrival"
        ));
        assert!(right(Scoring::Exact, json!(27), "27"));
        for answer in ["Card arrival", "`card-arrival`.", "card_arrival\nbecause"] {
            assert!(
                right(Scoring::Label, json!("card_arrival"), answer),
                "{answer}"
            );
        }
        assert!(!right(
            Scoring::Label,
            json!("card_arrival"),
            "no card arrival"
        ));
        let order = json!({"item": "mug", "quantity": 3});
        assert!(right(
            Scoring::Json,
            order.clone(),
            r#"{"quantity": 3.0, "item": "mug", "x": 1}"#
        ));
        assert!(right(
            Scoring::Json,
            json!(order.to_string()),
            "```json\n{\"item\":\"mug\",\"quantity\":3}\n```"
        ));
        for wrong in [
            r#"{"item": "mug"}"#,
            r#"{"item": "cup", "quantity": 3}"#,
            "a mug",
        ] {
            assert!(!right(Scoring::Json, order.clone(), wrong), "{wrong}");
        }
        let near = Scoring::Numeric { tolerance: 0.01 };
        assert!(right(near, json!(1_234), "it is 1,230.5."));
        assert!(right(near, json!("-2"), "1 and then -2"));
        assert!(!right(near, json!(1_234), "1,200"));
        assert!(!right(near, json!(3), "three"));
    }

    #[test]
    fn the_interval_is_wilsons() {
        // Newcombe, "Two-sided confidence intervals for the single proportion", 1998: 81 of 263.
        let (low, high) = Proportion {
            correct: 81,
            total: 263,
        }
        .confidence_interval();
        assert!(
            (low - 0.2553).abs() < 1e-4 && (high - 0.3662).abs() < 1e-4,
            "{low} {high}"
        );
        assert_eq!(Proportion::default().confidence_interval(), (0.0, 1.0));
        let (low, high) = Proportion {
            correct: 10,
            total: 10,
        }
        .confidence_interval();
        assert!(
            (low - 0.7225).abs() < 1e-3 && high > 0.999_999,
            "{low} {high}"
        );
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_rate(right in 0u32..500, wrong in 0u32..500) {
            let proportion = Proportion { correct: right, total: right + wrong };
            let (low, high) = proportion.confidence_interval();
            prop_assert!(low <= high);
            if proportion.total > 0 {
                prop_assert!(low <= proportion.rate() + 1e-9 && proportion.rate() <= high + 1e-9);
            }
        }

        #[test]
        fn any_answer_can_be_judged(expected in ".{0,40}", answer in ".{0,40}") {
            let expected = json!(expected);
            for scoring in [Scoring::Exact, Scoring::Label, Scoring::Json, Scoring::Numeric { tolerance: 0.1 }] {
                let _ = scoring.is_correct(&expected, &answer);
            }
        }
    }
}
