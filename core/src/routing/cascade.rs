//! Cascades: a small model answers first, and a larger one only if the small model's confidence in
//! its answer is too low.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ModelName;
use crate::generate::TokenLogprob;

/// The cascade of a task. Its models are tried in order; the last one's answer is always accepted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CascadeSpec {
    /// The confidence from which on an answer is accepted, for every model but the last.
    pub accept: ConfidenceThreshold,
    /// Thresholds of single models, as `flotilla eval --calibrate` finds them. They replace `accept`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tiers: BTreeMap<ModelName, ConfidenceThreshold>,
    /// A JSON schema that an answer must also match to be accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The confidence from which on an answer is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConfidenceThreshold {
    /// The measure of confidence.
    #[serde(default)]
    pub measure: ConfidenceMeasure,
    /// The least accepted confidence, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub at_least: f32,
}

impl Default for ConfidenceThreshold {
    fn default() -> Self {
        Self {
            measure: ConfidenceMeasure::default(),
            at_least: 0.5,
        }
    }
}

impl ConfidenceThreshold {
    /// Whether an answer of this confidence is accepted. An unknown confidence is not.
    #[must_use]
    pub fn accepts(self, confidence: Option<f32>) -> bool {
        confidence.is_some_and(|confidence| confidence >= self.at_least)
    }
}

/// A measure of a model's confidence in its answer, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConfidenceMeasure {
    /// The geometric mean of the tokens' probabilities: `exp` of the mean log-probability.
    Mean,
    /// The smallest probability of a token.
    #[default]
    Min,
    /// The smallest difference between the probability of a token and that of the next best one.
    Margin,
}

impl ConfidenceMeasure {
    /// All measures.
    pub const ALL: [Self; 3] = [Self::Mean, Self::Min, Self::Margin];

    /// The name in specs and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Margin => "margin",
        }
    }

    /// The number of most probable tokens (`top_logprobs`) that the measure needs at each position.
    #[must_use]
    pub fn top_logprobs(self) -> u32 {
        match self {
            Self::Mean | Self::Min => 0,
            Self::Margin => 2,
        }
    }
}

impl CascadeSpec {
    /// The threshold for answers of this model.
    #[must_use]
    pub fn threshold(&self, model: &ModelName) -> ConfidenceThreshold {
        self.tiers.get(model).copied().unwrap_or(self.accept)
    }
}

/// A model's confidence in its answer, updated token by token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnswerConfidence {
    tokens: u32,
    /// The sum of the log-probabilities.
    sum: f32,
    /// The smallest probability.
    min: f32,
    /// The smallest margin.
    margin: f32,
}

impl Default for AnswerConfidence {
    fn default() -> Self {
        Self {
            tokens: 0,
            sum: 0.0,
            min: 1.0,
            margin: 1.0,
        }
    }
}

impl AnswerConfidence {
    /// Adds a token of the answer.
    pub fn add_token(&mut self, token: &TokenLogprob) {
        let probability = token.logprob.exp().clamp(0.0, 1.0);
        self.tokens += 1;
        self.sum += token.logprob.min(0.0);
        self.min = self.min.min(probability);
        // The token itself may be among the most probable ones, under its own text.
        let others = token.top.iter().filter(|other| other.token != token.token);
        let next = others.map(|other| other.logprob.exp()).fold(0.0, f32::max);
        self.margin = self.margin.min((probability - next).max(0.0));
    }

    /// The confidence by a measure. `None` without tokens.
    #[must_use]
    pub fn value(&self, measure: ConfidenceMeasure) -> Option<f32> {
        (self.tokens > 0).then(|| match measure {
            ConfidenceMeasure::Mean => (self.sum / self.tokens as f32).exp(),
            ConfidenceMeasure::Min => self.min,
            ConfidenceMeasure::Margin => self.margin,
        })
    }

    /// Whether the answer stays below the threshold whatever follows, if it has at most `max_tokens`
    /// tokens.
    #[must_use]
    pub fn is_out_of_reach(&self, threshold: ConfidenceThreshold, max_tokens: Option<u32>) -> bool {
        match threshold.measure {
            ConfidenceMeasure::Min => self.min < threshold.at_least,
            ConfidenceMeasure::Margin => self.margin < threshold.at_least,
            // At best all further tokens are certain.
            ConfidenceMeasure::Mean => max_tokens.is_some_and(|max_tokens| {
                let tokens = max_tokens.max(self.tokens).max(1);
                (self.sum / tokens as f32).exp() < threshold.at_least
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::TopLogprob;
    use proptest::prelude::*;

    fn token(probability: f32, next: f32) -> TokenLogprob {
        let alternative = |token: &str, probability: f32| TopLogprob {
            bytes: Vec::new(),
            token: token.into(),
            logprob: probability.ln(),
        };
        TokenLogprob {
            bytes: Vec::new(),
            token: "a".into(),
            logprob: probability.ln(),
            top: vec![alternative("a", probability), alternative("b", next)],
        }
    }

    fn confidence_of(tokens: &[(f32, f32)]) -> AnswerConfidence {
        let mut confidence = AnswerConfidence::default();
        for (probability, next) in tokens {
            confidence.add_token(&token(*probability, *next));
        }
        confidence
    }

    fn threshold(measure: ConfidenceMeasure, at_least: f32) -> ConfidenceThreshold {
        ConfidenceThreshold { measure, at_least }
    }

    #[test]
    fn measures_are_computed_from_token_probabilities() {
        let confidence = confidence_of(&[(0.9, 0.05), (0.4, 0.3)]);
        let value = |measure| confidence.value(measure).unwrap();
        assert!((value(ConfidenceMeasure::Mean) - 0.6).abs() < 1e-6);
        assert!((value(ConfidenceMeasure::Min) - 0.4).abs() < 1e-6);
        assert!((value(ConfidenceMeasure::Margin) - 0.1).abs() < 1e-6);
        assert_eq!(
            AnswerConfidence::default().value(ConfidenceMeasure::Min),
            None
        );
        // A token that was sampled although another one was more probable has a margin of 0.
        assert_eq!(
            confidence_of(&[(0.2, 0.7)]).value(ConfidenceMeasure::Margin),
            Some(0.0)
        );
    }

    #[test]
    fn threshold_is_out_of_reach_once_no_token_can_reach_it() {
        let confidence = confidence_of(&[(0.9, 0.05), (0.4, 0.3)]);
        assert!(confidence.is_out_of_reach(threshold(ConfidenceMeasure::Min, 0.5), None));
        assert!(!confidence.is_out_of_reach(threshold(ConfidenceMeasure::Min, 0.3), None));
        assert!(confidence.is_out_of_reach(threshold(ConfidenceMeasure::Margin, 0.2), None));
        let mean = threshold(ConfidenceMeasure::Mean, 0.7);
        assert!(
            !confidence.is_out_of_reach(mean, None),
            "more tokens may follow"
        );
        assert!(!confidence.is_out_of_reach(mean, Some(20)));
        assert!(confidence.is_out_of_reach(mean, Some(2)));
    }

    #[test]
    fn tier_may_have_its_own_threshold() {
        let small = ModelName::new("small").unwrap();
        let cascade = CascadeSpec {
            accept: threshold(ConfidenceMeasure::Mean, 0.8),
            tiers: [(small.clone(), threshold(ConfidenceMeasure::Min, 0.6))].into(),
            schema: None,
        };
        assert_eq!(
            cascade.threshold(&small),
            threshold(ConfidenceMeasure::Min, 0.6)
        );
        let other = ModelName::new("other").unwrap();
        assert_eq!(
            cascade.threshold(&other),
            threshold(ConfidenceMeasure::Mean, 0.8)
        );
    }

    proptest! {
        #[test]
        fn answer_out_of_reach_would_not_have_been_accepted(
            probabilities in proptest::collection::vec(0.01f32..1.0, 1..20),
            at in 0usize..20, at_least in 0.0f32..1.0, which in 0usize..3,
        ) {
            let tokens: Vec<_> = probabilities.iter().map(|p| (*p, (1.0 - p) / 2.0)).collect();
            let accept = threshold(ConfidenceMeasure::ALL[which], at_least);
            let early = confidence_of(&tokens[..at.min(tokens.len())]);
            if early.is_out_of_reach(accept, Some(tokens.len() as u32)) {
                let value = confidence_of(&tokens).value(accept.measure).unwrap();
                prop_assert!(value < at_least + 1e-5);
            }
        }
    }
}
