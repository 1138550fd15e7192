//! Measured quality of a model: scoring of single answers, and the proportion of correct answers
//! with its confidence interval.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The rule by which an answer counts as correct.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scoring {
    /// The answer equals the expected text, apart from white space around it.
    Exact,
    /// The first line of the answer is the expected label. Case, quotes and full stops around it
    /// are ignored, and white space, `_` and `-` count as the same.
    Label,
    /// The answer is JSON with all expected fields. Numbers are compared by value.
    Json,
    /// The last number of the answer is near the expected number.
    Numeric {
        /// Largest deviation, as a fraction of the expected number.
        tolerance: f64,
    },
}

impl Scoring {
    /// Returns whether `answer` is correct, given the expected value.
    #[must_use]
    pub fn is_correct(self, expected: &Value, answer: &str) -> bool {
        match self {
            Self::Exact => text(expected).trim() == answer.trim(),
            Self::Label => label(&text(expected)) == label(answer),
            Self::Json => json_matches(expected, answer),
            Self::Numeric { tolerance } => {
                let expected = match expected {
                    Value::Number(number) => number.as_f64(),
                    other => last_number(&text(other)),
                };
                match (expected, last_number(answer)) {
                    (Some(expected), Some(actual)) => {
                        (actual - expected).abs() <= tolerance * expected.abs()
                    }
                    _ => false,
                }
            }
        }
    }
}

/// Returns a string as it is and any other value as JSON.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Returns the normalized label in the first line of a text.
fn label(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    let name = line.trim_matches(|c: char| c.is_whitespace() || "\"'`.*".contains(c));
    let words = name.split(|c: char| c.is_whitespace() || c == '_' || c == '-');
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ").to_lowercase()
}

/// Returns whether `answer` is JSON with everything in `expected`.
fn json_matches(expected: &Value, answer: &str) -> bool {
    // Models often put JSON into a code fence.
    let answer = answer.trim();
    let inner = answer.strip_prefix("```").and_then(|rest| {
        let rest = rest.strip_prefix("json").unwrap_or(rest);
        rest.strip_suffix("```")
    });
    let actual: Option<Value> = serde_json::from_str(inner.unwrap_or(answer)).ok();
    let parsed = match expected {
        Value::String(text) => serde_json::from_str(text).ok(),
        other => Some(other.clone()),
    };
    match (parsed, actual) {
        (Some(expected), Some(actual)) => contains_expected(&actual, &expected),
        _ => false,
    }
}

/// Returns whether `actual` has everything in `expected`.
fn contains_expected(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => expected.iter().all(|(name, value)| {
            actual
                .get(name)
                .is_some_and(|actual| contains_expected(actual, value))
        }),
        (Value::Array(actual), Value::Array(expected)) => {
            actual.len() == expected.len()
                && actual
                    .iter()
                    .zip(expected)
                    .all(|(f, e)| contains_expected(f, e))
        }
        (Value::Number(actual), Value::Number(expected)) => actual.as_f64() == expected.as_f64(),
        (actual, expected) => actual == expected,
    }
}

/// Returns the last number in a text. Thousands may be separated by commas.
fn last_number(text: &str) -> Option<f64> {
    let parts = text.split(|c: char| !(c.is_ascii_digit() || ".,-+eE".contains(c)));
    let mut numbers = parts.rev().filter_map(|part| {
        let part = part.trim_matches(|c| ".,".contains(c)).replace(',', "");
        let number: f64 = part.parse().ok()?;
        number.is_finite().then_some(number)
    });
    numbers.next()
}

/// A number of correct answers out of a total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proportion {
    /// Number of correct answers.
    pub correct: u32,
    /// Number of all answers.
    pub total: u32,
}

/// The z-score of a two-sided 95 % confidence interval.
const Z_95: f64 = 1.959_964;

impl Proportion {
    /// Adds an answer.
    pub fn record(&mut self, correct: bool) {
        self.correct += u32::from(correct);
        self.total += 1;
    }

    /// Returns the fraction of correct answers, or 0 if there are none.
    #[must_use]
    pub fn rate(self) -> f64 {
        f64::from(self.correct) / f64::from(self.total.max(1))
    }

    /// Returns the 95 % confidence interval of the rate, as its lower and upper bound: Wilson's
    /// score interval (Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927).
    #[must_use]
    pub fn confidence_interval(self) -> (f64, f64) {
        if self.total == 0 {
            return (0.0, 1.0);
        }
        let (n, p) = (f64::from(self.total), self.rate());
        let middle = p + Z_95 * Z_95 / (2.0 * n);
        let margin = Z_95 * (p * (1.0 - p) / n + Z_95 * Z_95 / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z_95 * Z_95 / n;
        let scaled = |x: f64| (x / scale).clamp(0.0, 1.0);
        (scaled(middle - margin), scaled(middle + margin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn each_scoring_rule_accepts_and_rejects_answers() {
        let correct =
            |scoring: Scoring, expected: Value, answer| scoring.is_correct(&expected, answer);
        assert!(correct(
            Scoring::Exact,
            json!("card_arrival"),
            " card_arrival\n"
        ));
        assert!(!correct(
            Scoring::Exact,
            json!("card_arrival"),
            "Card arrival"
        ));
        assert!(correct(Scoring::Exact, json!(27), "27"));
        for answer in ["Card arrival", "`card-arrival`.", "card_arrival\nbecause"] {
            assert!(
                correct(Scoring::Label, json!("card_arrival"), answer),
                "{answer}"
            );
        }
        assert!(!correct(
            Scoring::Label,
            json!("card_arrival"),
            "no card arrival"
        ));
        let order = json!({"item": "mug", "quantity": 3});
        assert!(correct(
            Scoring::Json,
            order.clone(),
            r#"{"quantity": 3.0, "item": "mug", "x": 1}"#
        ));
        assert!(correct(
            Scoring::Json,
            json!(order.to_string()),
            "```json\n{\"item\":\"mug\",\"quantity\":3}\n```"
        ));
        for wrong in [
            r#"{"item": "mug"}"#,
            r#"{"item": "cup", "quantity": 3}"#,
            "a mug",
        ] {
            assert!(!correct(Scoring::Json, order.clone(), wrong), "{wrong}");
        }
        let near = Scoring::Numeric { tolerance: 0.01 };
        assert!(correct(near, json!(1_234), "it is 1,230.5."));
        assert!(correct(near, json!("-2"), "1 and then -2"));
        assert!(!correct(near, json!(1_234), "1,200"));
        assert!(!correct(near, json!(3), "three"));
    }

    #[test]
    fn confidence_interval_matches_published_values() {
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
        fn confidence_interval_contains_the_rate(right in 0u32..500, wrong in 0u32..500) {
            let proportion = Proportion { correct: right, total: right + wrong };
            let (low, high) = proportion.confidence_interval();
            prop_assert!(low <= high);
            if proportion.total > 0 {
                prop_assert!(low <= proportion.rate() + 1e-9 && proportion.rate() <= high + 1e-9);
            }
        }

        #[test]
        fn scoring_accepts_any_text(expected in ".{0,40}", answer in ".{0,40}") {
            let expected = json!(expected);
            for scoring in [Scoring::Exact, Scoring::Label, Scoring::Json, Scoring::Numeric { tolerance: 0.1 }] {
                let _ = scoring.is_correct(&expected, &answer);
            }
        }
    }
}
